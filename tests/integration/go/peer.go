// A node with the locks of etcd's own client for Go, for tests of what both do on one key.
//
//	peer 127.0.0.1:2379 foo
//
// It does what the lines of its input say, one after the other, and prints a line when each is done:
// campaign <value>, proclaim <value>, resign, leader, observe; mutex, read, write, and unlock for
// what of these was last. "observe" prints each leader from then on, and does nothing else.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/experimental/recipes"
	"go.uber.org/zap"
)

const ttl = 60

var background = context.Background()

func main() {
	endpoint, key := os.Args[1], os.Args[2]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	must(err)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	must(err)
	election := concurrency.NewElection(session, key)
	mutex, both := concurrency.NewMutex(session, key), recipe.NewRWMutex(session, key)
	unlock := func() error { return nil }

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command, value, _ := strings.Cut(lines.Text(), " ")
		said := command
		switch command {
		case "campaign":
			must(election.Campaign(background, value))
		case "proclaim":
			must(election.Proclaim(background, value))
		case "resign":
			must(election.Resign(background))
		case "leader":
			found, err := election.Leader(background)
			must(err)
			said = string(found.Kvs[0].Value)
		case "observe":
			fmt.Println("observes")
			for leader := range election.Observe(background) {
				fmt.Println(string(leader.Kvs[0].Value))
			}
			return
		case "mutex":
			must(mutex.Lock(background))
			unlock = func() error { return mutex.Unlock(background) }
		case "read":
			must(both.RLock())
			unlock = both.RUnlock
		case "write":
			must(both.Lock())
			unlock = both.Unlock
		case "unlock":
			must(unlock())
		default:
			log.Fatalf("nothing is called %q", command)
		}
		fmt.Println(said)
	}
	session.Close()
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
