package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const renewalTTL = 10

// watch returns when it watches the entries of a lock.
func watch(client *clientv3.Client, key string, told func()) {
	created := make(chan struct{})
	replies := client.Watch(background, key+"/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	go func() {
		for reply := range replies {
			if reply.Created {
				close(created)
			} else {
				told()
			}
		}
	}()
	<-created
}

func idle(set setting) cells {
	client := connect(set)
	watch(client, "first", func() {})
	time.Sleep(200 * time.Millisecond)
	memory, before := resident(), threads()
	began := now()
	for each := range set.Locks {
		watch(client, name("idle-%d", each), func() {})
	}
	watching := now() - began
	time.Sleep(500 * time.Millisecond)
	const streams = `\{[^}]*grpc_service="etcdserverpb.Watch"[^}]*\}`
	all := cells{name("%d locks", set.Locks): {
		"MiB more than one": resident() - memory,
		"threads more":      threads() - before,
		"all watch s":       watching,
		"streams": metric(set, "grpc_server_started_total"+streams) -
			metric(set, "grpc_server_handled_total"+streams),
	}}
	if set.Listeners > 0 {
		all[name("an event for %d", set.Listeners)] = event(client, set.Listeners)
	}
	return all
}

func event(client *clientv3.Client, listeners int) measures {
	var left atomic.Int64
	left.Store(int64(listeners))
	done := make(chan float64, listeners)
	for range listeners {
		watch(client, "popular", func() {
			if left.Add(-1) == 0 {
				done <- now()
			}
		})
	}
	shared := session(client, ttl)
	must(concurrency.NewMutex(shared, "warm").Lock(background))
	began := now()
	must(concurrency.NewMutex(shared, "popular").Lock(background))
	select {
	case at := <-done:
		return measures{"all told ms": (at - began) * 1000}
	case <-time.After(30 * time.Second):
		return measures{"all told ms": nil}
	}
}

func renewal(set setting) cells {
	client := connect(set)
	sessions := make([]*concurrency.Session, set.Holds)
	began := now()
	onEach(set.Holds, func(each int) {
		sessions[each] = session(client, renewalTTL)
		lock := concurrency.NewMutex(sessions[each], name("kept-%d", each))
		must(lock.Lock(background))
	})
	taken := now() - began
	time.Sleep(time.Second)
	began, used := now(), cpu()
	sleepUntil(began + set.Keep)
	used = (cpu() - used) / (now() - began)
	kept := int64(0)
	for _, each := range sessions {
		select {
		case <-each.Done():
		default:
			kept++
		}
	}
	found, err := client.Get(background, "kept-", clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(err)
	return cells{name("%d holds", set.Holds): {
		"CPU % of a core": 100 * used,
		"lost":            int64(set.Holds) - min(found.Count, kept),
		"all taken s":     taken,
		"threads":         threads(),
		"MiB":             resident(),
	}}
}

// resident is the memory of this process in MiB; 0 outside Linux.
func resident() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	must(err)
	return pages * float64(os.Getpagesize()) / (1 << 20)
}

func threads() int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	return len(tasks)
}
