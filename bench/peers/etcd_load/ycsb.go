package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	mathrand "math/rand"
	"sync/atomic"

	"go.etcd.io/etcd/clientv3"
)

// The workloads of YCSB (Cooper et al., SoCC 2010), as bench/ycsb.py draws them.

const (
	theta = 0.99
	// YCSB's scrambled zipfian draws from so many items, whatever there are, and hashes the draw.
	hashedItems = 10_000_000_000
	hashedZeta  = 26.46902820178302
	scanMax     = 100
)

type shares struct{ read, update, insert, scan, modify float64 }

var workloads = map[string]shares{
	"A": {read: 0.5, update: 0.5},
	"B": {read: 0.95, update: 0.05},
	"C": {read: 1},
	"D": {read: 0.95, insert: 0.05},
	"E": {scan: 0.95, insert: 0.05},
	"F": {read: 0.5, modify: 0.5},
}

var inserted int64 // records beyond those that were there, of all clients together

// zipf draws numbers from 0 on, small ones more often (Gray et al., SIGMOD 1994).
type zipf struct{ items, zeta, alpha, eta float64 }

func newZipf(items, zeta float64) zipf {
	two := 1 + math.Pow(0.5, theta)
	eta := (1 - math.Pow(2/items, 1-theta)) / (1 - two/zeta)
	return zipf{items, zeta, 1 / (1 - theta), eta}
}

func zetaOf(items int) float64 {
	sum := 0.0
	for i := 1; i <= items; i++ {
		sum += math.Pow(float64(i), -theta)
	}
	return sum
}

func (z zipf) draw(u float64) int64 {
	if uz := u * z.zeta; uz < 1 {
		return 0
	} else if uz < 1+math.Pow(0.5, theta) {
		return 1
	}
	return int64(z.items * math.Pow(z.eta*u-z.eta+1, z.alpha))
}

func fnv(number int64) int64 {
	var octets [8]byte
	binary.LittleEndian.PutUint64(octets[:], uint64(number))
	hash := uint64(0xCBF29CE484222325)
	for _, octet := range octets {
		hash = (hash ^ uint64(octet)) * 1099511628211
	}
	return int64(hash & math.MaxInt64)
}

func userKey(number int) string { return fmt.Sprintf("user%d", fnv(int64(number))) }

// newWorkload gives one client's next operation, again and again.
func newWorkload(
	name string, client *clientv3.Client, keys int, value string, chance *mathrand.Rand,
) func() error {
	mix, known := workloads[name]
	if !known {
		fail(fmt.Errorf("no workload %q: A to F", name))
	}
	ctx := context.Background()
	hashed := newZipf(hashedItems, hashedZeta)
	latest := newZipf(float64(keys), zetaOf(keys))
	existing := func() string {
		if name == "D" {
			newest := keys + int(atomic.LoadInt64(&inserted)) - 1
			return userKey(newest - int(latest.draw(chance.Float64())))
		}
		return userKey(int(fnv(hashed.draw(chance.Float64())) % int64(keys)))
	}
	return func() error {
		u := chance.Float64()
		var err error
		switch {
		case u < mix.read:
			_, err = client.Get(ctx, existing())
		case u < mix.read+mix.update:
			_, err = client.Put(ctx, existing(), value)
		case u < mix.read+mix.update+mix.scan:
			length := int64(1 + chance.Intn(scanMax))
			_, err = client.Get(
				ctx, existing(), clientv3.WithRange("user\xff"), clientv3.WithLimit(length),
			)
		case u < mix.read+mix.update+mix.scan+mix.modify:
			key := existing()
			if _, err = client.Get(ctx, key); err == nil {
				_, err = client.Put(ctx, key, value)
			}
		default:
			number := keys + int(atomic.AddInt64(&inserted, 1)) - 1
			_, err = client.Put(ctx, userKey(number), value)
		}
		return err
	}
}
