package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sort"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// holds is when a waiter got the lock, each time.
type holds struct {
	sync.Mutex
	at []float64
}

func (h *holds) seen() []float64 {
	h.Lock()
	defer h.Unlock()
	return append([]float64(nil), h.at...)
}

func wait(client *clientv3.Client, key string, h *holds) func(ends float64) {
	lock := concurrency.NewMutex(session(client, ttl), key)
	return func(ends float64) {
		for now() < ends {
			must(lock.Lock(background))
			h.Lock()
			h.at = append(h.at, now())
			h.Unlock()
			must(lock.Unlock(background))
		}
	}
}

func handover(set setting) cells {
	all := cells{}
	client := connect(set)
	for _, number := range set.Waiters {
		key := name("lock-%d", number)
		if set.Clients == "processes" {
			all[name("%d processes", number)] = processes(set, key, number)
			continue
		}
		cell := name("%d waiters", number)
		var waits []func(float64)
		records := make([]holds, number)
		for each := range number {
			if set.Clients == "each" {
				client = connect(set)
				cell = name("%d waiters, a client each", number)
			}
			waits = append(waits, wait(client, key, &records[each]))
		}
		s := newSpan(set.Seconds)
		var works []func()
		for _, each := range waits {
			works = append(works, func() { each(s.ends) })
		}
		s.measure(works)
		var seen [][]float64
		for each := range records {
			seen = append(seen, records[each].seen())
		}
		all[cell] = handed(s, seen)
	}
	return all
}

func processes(set setting, key string, number int) measures {
	type process struct {
		in  io.WriteCloser
		out *bufio.Reader
	}
	var running []process
	for each := range number {
		set.Scenario, set.Key, set.Waiter = "waiter", key, each
		argument, err := json.Marshal(set)
		must(err)
		command := exec.Command(os.Args[0], string(argument))
		in, err := command.StdinPipe()
		must(err)
		out, err := command.StdoutPipe()
		must(err)
		command.Stderr = os.Stderr
		must(command.Start())
		running = append(running, process{in, bufio.NewReader(out)})
	}
	for _, each := range running {
		_, err := each.out.ReadString('\n')
		must(err)
	}
	s := newSpan(set.Seconds)
	for _, each := range running {
		must(json.NewEncoder(each.in).Encode([]float64{s.begins, s.ends}))
	}
	var seen [][]float64
	for _, each := range running {
		var at []float64
		must(json.NewDecoder(each.out).Decode(&at))
		seen = append(seen, at)
	}
	return handed(s, seen)
}

// waiter is one process of processes.
func waiter(set setting) {
	var h holds
	client := connect(set)
	waits := wait(client, set.Key, &h)
	os.Stdout.WriteString("connected\n")
	var times []float64
	must(json.NewDecoder(os.Stdin).Decode(&times))
	s := span{begins: times[0], ends: times[1]}
	s.measure([]func(){func() { waits(s.ends) }})
	must(json.NewEncoder(os.Stdout).Encode(h.seen()))
}

func handed(s *span, seen [][]float64) measures {
	type hold struct {
		at     float64
		waiter int
	}
	var order []hold
	for waiter, times := range seen {
		for _, at := range times {
			if s.begins <= at && at <= s.ends {
				order = append(order, hold{at, waiter})
			}
		}
	}
	sort.Slice(order, func(one, other int) bool { return order[one].at < order[other].at })
	handed, counts := 0, make([]int, len(seen))
	for each := 1; each < len(order); each++ {
		if order[each].waiter != order[each-1].waiter {
			handed++
		}
	}
	for _, each := range order[:len(order)-len(order)%len(seen)] {
		counts[each.waiter]++
	}
	sort.Ints(counts)
	found := measures{
		"hand-overs/s": float64(handed) / (s.ends - s.begins),
		"holds/s":      float64(len(order)) / (s.ends - s.begins),
	}
	if len(order) >= len(seen) {
		found["fairness"], found["starved"] = nil, sort.SearchInts(counts, 1)
		if counts[0] > 0 {
			found["fairness"] = float64(counts[len(counts)-1]) / float64(counts[0])
		}
	}
	return found
}
