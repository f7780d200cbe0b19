// Command etcd_load asks an etcd cluster as fast as it can and prints what it took.
//
// It is the peer's own client with nothing in its way: several connections, no work between two
// operations, latencies kept in arrays that were made before. Built without any download against
// Debian's golang-etcd-server-dev: GO111MODULE=off GOPATH=/usr/share/gocode go build.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	mathrand "math/rand"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type result struct {
	Operations int     `json:"operations"`
	Errors     int     `json:"errors"`
	Seconds    float64 `json:"seconds"`
	Began      float64 `json:"began"`       // seconds since 1970
	CPUSeconds float64 `json:"cpu_seconds"` // of this program, while it measured
	Took       []int64 `json:"took_us"`
}

func main() {
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "client addresses, by commas")
	clients := flag.Int("clients", 1, "operations in flight")
	connections := flag.Int("connections", 8, "connections they share")
	seconds := flag.Float64("seconds", 3, "how long to ask")
	gets := flag.Float64("gets", 0, "the share of linearizable gets, from 0 to 1")
	keys := flag.Int("keys", 10000, "how many keys there are")
	size := flag.Int("size", 256, "bytes of a value")
	fill := flag.Bool("fill", false, "put every key once, and ask nothing else")
	ycsb := flag.String("ycsb", "", "ask as this workload of YCSB does, A to F")
	flag.Parse()
	keyOf := func(number int) string { return fmt.Sprintf("bench/%d", number) }
	if *ycsb != "" {
		keyOf = userKey
	}

	value := make([]byte, *size)
	if _, err := rand.Read(value); err != nil {
		fail(err)
	}
	if *connections > *clients {
		*connections = *clients
	}
	pool := make([]*clientv3.Client, *connections)
	for i := range pool {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:   strings.Split(*endpoints, ","),
			DialTimeout: 5 * time.Second,
		})
		if err != nil {
			fail(err)
		}
		defer client.Close()
		pool[i] = client
	}
	if *fill {
		fillKeys(pool, *clients, *keys, keyOf, string(value))
		return
	}

	took := make([][]int64, *clients)
	errors := make([]int, *clients)
	used := cpuSeconds()
	begun := time.Now()
	until := begun.Add(time.Duration(*seconds * float64(time.Second)))
	var group sync.WaitGroup
	for number := 0; number < *clients; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			chance := mathrand.New(mathrand.NewSource(int64(number)))
			client, mine := pool[number%len(pool)], make([]int64, 0, 65536)
			var next func() error
			if *ycsb != "" {
				next = newWorkload(*ycsb, client, *keys, string(value), chance)
			} else {
				next = func() error {
					key := keyOf(chance.Intn(*keys))
					var err error
					if chance.Float64() < *gets {
						_, err = client.Get(context.Background(), key)
					} else {
						_, err = client.Put(context.Background(), key, string(value))
					}
					return err
				}
			}
			for {
				start := time.Now()
				if !start.Before(until) {
					break
				}
				err := next()
				if err != nil {
					errors[number]++
					continue
				}
				mine = append(mine, time.Since(start).Microseconds())
			}
			took[number] = mine
		}(number)
	}
	group.Wait()
	all := result{
		Seconds:    time.Since(begun).Seconds(),
		Began:      float64(begun.UnixNano()) / 1e9,
		CPUSeconds: cpuSeconds() - used,
		Took:       []int64{},
	}
	for number := range took {
		all.Took = append(all.Took, took[number]...)
		all.Errors += errors[number]
	}
	all.Operations = len(all.Took)
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		fail(err)
	}
}

func fillKeys(pool []*clientv3.Client, clients, keys int, keyOf func(int) string, value string) {
	var group sync.WaitGroup
	for number := 0; number < clients; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			for key := number; key < keys; key += clients {
				client := pool[number%len(pool)]
				if _, err := client.Put(context.Background(), keyOf(key), value); err != nil {
					fail(err)
				}
			}
		}(number)
	}
	group.Wait()
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		fail(err)
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "etcd_load:", err)
	os.Exit(1)
}
