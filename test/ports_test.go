package test

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// freeBase returns a port that is free, as are those at the given offsets from it, both where the
// agent listens and where the clients dial, none of which it has given before: paths are opened
// side by side, and bind them later. It looks below the ports that the system gives to outgoing
// connections.
func freeBase(offsets []int) (int, error) {
	givenBases.Lock()
	defer givenBases.Unlock()
	for range 100 {
		base := 20000 + rand.IntN(10000)
		if allFree(base, offsets) {
			for _, offset := range offsets {
				givenBases.ports[base+offset] = true
			}
			return base, nil
		}
	}
	return 0, errors.New("no free range of ports")
}

var givenBases = struct {
	sync.Mutex
	ports map[int]bool
}{ports: make(map[int]bool)}

// allFree is called with givenBases held.
func allFree(base int, offsets []int) bool {
	for _, offset := range offsets {
		if givenBases.ports[base+offset] {
			return false
		}
		for _, host := range []string{agentHost, clientHost} {
			l, err := net.Listen("tcp", address(host, base+offset))
			if err != nil {
				return false
			}
			defer l.Close()
		}
	}
	return true
}
