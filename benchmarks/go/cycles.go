package main

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"

	"go.etcd.io/etcd/client/v3/concurrency"
)

const exact = 50

// record is the times of cycles: before each, locked, unlocked.
type record struct {
	sync.Mutex
	times [][3]float64
}

func (r *record) cycle(lock *concurrency.Mutex) {
	began := now()
	must(lock.Lock(background))
	locked := now()
	must(lock.Unlock(background))
	unlocked := now()
	r.Lock()
	r.times = append(r.times, [3]float64{began, locked, unlocked})
	r.Unlock()
}

func (r *record) measures(s *span) measures {
	var locking, unlocking []float64
	r.Lock()
	defer r.Unlock()
	for _, at := range r.times {
		if at[0] >= s.begins && at[2] <= s.ends {
			locking = append(locking, (at[1]-at[0])*1000)
			unlocking = append(unlocking, (at[2]-at[1])*1000)
		}
	}
	count := float64(len(locking))
	return measures{
		"cycles/s":    count / (s.ends - s.begins),
		"lock p50 ms": percentile(locking, 0.5), "lock p99 ms": percentile(locking, 0.99),
		"unlock p50 ms": percentile(unlocking, 0.5), "unlock p99 ms": percentile(unlocking, 0.99),
		"CPU us": s.cpu / max(count, 1) * 1e6,
	}
}

// cycles has one worker for each list of locks, which takes them in turn.
func cycles(locks [][]*concurrency.Mutex, seconds float64) measures {
	var r record
	for _, mine := range locks {
		for _, lock := range mine {
			r.cycle(lock)
		}
	}
	s := newSpan(seconds)
	var works []func()
	for _, mine := range locks {
		works = append(works, func() {
			for turn := 0; now() < s.ends; turn++ {
				r.cycle(mine[turn%len(mine)])
			}
		})
	}
	s.measure(works)
	return r.measures(s)
}

func single(set setting) cells {
	client := connect(set)
	shared := session(client, ttl)
	same := []*concurrency.Mutex{concurrency.NewMutex(shared, "same")}
	var distinct []*concurrency.Mutex
	for each := range set.Keys {
		distinct = append(distinct, concurrency.NewMutex(shared, name("distinct-%d", each)))
	}
	all := cells{
		"one key": cycles([][]*concurrency.Mutex{same}, set.Seconds),
	}
	if set.Keys > 0 {
		all[name("%d keys in turn", set.Keys)] = cycles([][]*concurrency.Mutex{distinct}, set.Seconds)
	}
	var r record
	s := newSpan(set.Seconds)
	s.measure([]func(){func() {
		for number := 0; now() < s.ends; number++ {
			began := now()
			own := session(client, ttl)
			lock := concurrency.NewMutex(own, name("new-%d", number))
			must(lock.Lock(background))
			locked := now()
			must(lock.Unlock(background))
			must(own.Close())
			r.times = append(r.times, [3]float64{began, locked, now()})
		}
	}})
	all["a new object each"] = r.measures(s)
	before := metric(set, `etcd_server_proposals_applied_total`)
	for range exact {
		r.cycle(same[0])
	}
	after := metric(set, `etcd_server_proposals_applied_total`)
	all["one key"]["raft writes"] = (after - before) / exact
	return all
}

func workers(set setting) cells {
	shared := session(connect(set), ttl)
	all := cells{}
	for _, number := range set.Workers {
		var locks [][]*concurrency.Mutex
		for each := range number {
			lock := concurrency.NewMutex(shared, name("%d-%d", number, each))
			locks = append(locks, []*concurrency.Mutex{lock})
		}
		all[name("%d workers", number)] = cycles(locks, set.Seconds)
	}
	return all
}

// metric is the sum of the samples of one of etcd's metrics, given as a regular expression.
func metric(set setting, pattern string) float64 {
	reply, err := http.Get("http://" + set.Endpoint + "/metrics")
	must(err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	must(err)
	sum := 0.0
	sample := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`)
	for _, match := range sample.FindAllSubmatch(text, -1) {
		value, err := strconv.ParseFloat(string(match[1]), 64)
		must(err)
		sum += value
	}
	return sum
}
