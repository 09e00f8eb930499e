package main

import (
	"slices"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
)

// tally counts what is done within a span.
type tally struct {
	*span
	count atomic.Int64
}

func (t *tally) done() {
	if at := now(); t.begins <= at && at <= t.ends {
		t.count.Add(1)
	}
}

func (t *tally) rate() float64 { return float64(t.count.Load()) / (t.ends - t.begins) }

// shared has readers and writers with the RWMutex of the recipes.
func shared(set setting) cells {
	all := cells{}
	client := connect(set)
	for _, nodes := range set.Nodes {
		key, s := name("shared-%d-%d", nodes[0], nodes[1]), newSpan(set.Seconds)
		read, written := &tally{span: s}, &tally{span: s}
		var works []func()
		for each := range nodes[0] + nodes[1] {
			lock := recipe.NewRWMutex(session(client, ttl), key)
			works = append(works, func() {
				for now() < s.ends {
					if each < nodes[0] {
						must(lock.RLock())
						read.done()
						must(lock.RUnlock())
					} else {
						must(lock.Lock())
						written.done()
						must(lock.Unlock())
					}
				}
			})
		}
		s.measure(works)
		all[name("%d readers, %d writers", nodes[0], nodes[1])] = measures{
			"holds/s": read.rate() + written.rate(), "writes/s": written.rate(),
		}
	}
	return all
}

// several takes the keys one by one, in their order.
func several(set setting) cells {
	all := cells{}
	client := connect(set)
	for _, number := range set.Numbers {
		keys := make([]int, number)
		for each := range number {
			keys[each] = each
		}
		mine := [][]*concurrency.Mutex{mutexes(client, name("mine-%d", number), keys)}
		all[name("%d keys, one by one", number)] = oneByOne(mine, set.Seconds)
	}
	var nodes [][]*concurrency.Mutex
	for _, keys := range set.Wanted {
		nodes = append(nodes, mutexes(client, "shared", keys))
	}
	cell := name("%d nodes, %d keys each, one by one", len(nodes), len(set.Wanted[0]))
	all[cell] = oneByOne(nodes, set.Seconds)
	return all
}

func mutexes(client *clientv3.Client, prefix string, keys []int) []*concurrency.Mutex {
	made, of := []*concurrency.Mutex{}, session(client, ttl)
	for _, key := range slices.Sorted(slices.Values(keys)) {
		made = append(made, concurrency.NewMutex(of, name("%s-%d", prefix, key)))
	}
	return made
}

func oneByOne(nodes [][]*concurrency.Mutex, seconds float64) measures {
	t := &tally{span: newSpan(seconds)}
	var works []func()
	for _, locks := range nodes {
		works = append(works, func() {
			for now() < t.ends {
				for _, lock := range locks {
					must(lock.Lock(background))
				}
				for _, lock := range slices.Backward(locks) {
					must(lock.Unlock(background))
				}
				t.done()
			}
		})
	}
	t.measure(works)
	return measures{"cycles/s": t.rate()}
}
