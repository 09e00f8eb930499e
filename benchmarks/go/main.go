// The scenarios of benchmarks/ with the Mutex of etcd's own client, for Go: prints measures as JSON.
//
//	bench '{"scenario": "single", "endpoint": "127.0.0.1:2379", "seconds": 1, ...}'
//
// The settings and the measures are those of benchmarks/scenarios/*.py.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	ttl    = 60
	warmUp = 0.3
	grace  = 1.0
)

type setting struct {
	Scenario  string
	Endpoint  string
	Seconds   float64
	Keys      int
	Workers   []int
	Waiters   []int
	Clients   string
	Locks     int
	Listeners int
	Holds     int
	Nodes     [][2]int // how many read and write
	Numbers   []int    // of keys that one node wants
	Wanted    [][]int  // the keys of those who contend
	Keep      float64
	Waiter    int // of the scenario "waiter", which is one process of "handover"
	Key       string
}

type measures map[string]any
type cells map[string]measures

var background = context.Background()

func main() {
	log.SetFlags(0)
	var set setting
	must(json.Unmarshal([]byte(os.Args[1]), &set))
	scenarios := map[string]func(setting) cells{
		"single": single, "workers": workers, "handover": handover, "idle": idle, "renewal": renewal,
		"shared": shared, "several": several,
	}
	if set.Scenario == "waiter" {
		waiter(set)
		return
	}
	must(json.NewEncoder(os.Stdout).Encode(scenarios[set.Scenario](set)))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func connect(set setting) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{set.Endpoint}, Logger: zap.NewNop()})
	must(err)
	return client
}

func session(client *clientv3.Client, seconds int) *concurrency.Session {
	made, err := concurrency.NewSession(client, concurrency.WithTTL(seconds))
	must(err)
	return made
}

// now is Python's time.monotonic, which the processes of a machine share.
func now() float64 {
	var at unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &at))
	return float64(at.Sec) + float64(at.Nsec)/1e9
}

func sleepUntil(at float64) { time.Sleep(time.Duration((at - now()) * float64(time.Second))) }

func cpu() float64 {
	var used unix.Rusage
	must(unix.Getrusage(unix.RUSAGE_SELF, &used))
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

type span struct{ begins, ends, cpu float64 }

func newSpan(seconds float64) *span {
	begins := now() + warmUp
	return &span{begins: begins, ends: begins + seconds}
}

// measure runs all the works side by side, and waits for them for a while after the end.
func (s *span) measure(works []func()) {
	var all sync.WaitGroup
	for _, work := range works {
		all.Add(1)
		go func() { defer all.Done(); work() }()
	}
	sleepUntil(s.begins)
	before := cpu()
	sleepUntil(s.ends)
	s.cpu = cpu() - before
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Duration(grace * float64(time.Second))):
	}
}

func percentile(values []float64, share float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sort.Float64s(values)
	return values[min(len(values)-1, int(float64(len(values))*share))]
}

// onEach does something for each number below n, 32 at a time.
func onEach(n int, do func(int)) {
	turns := make(chan struct{}, 32)
	var all sync.WaitGroup
	for each := range n {
		turns <- struct{}{}
		all.Add(1)
		go func() { defer all.Done(); do(each); <-turns }()
	}
	all.Wait()
}

func name(format string, arguments ...any) string { return fmt.Sprintf(format, arguments...) }
