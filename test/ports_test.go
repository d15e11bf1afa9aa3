package test

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// freeBase returns a port that is free together with those at the given offsets, both where the
// agent listens and where clients dial. It never returns a port twice, since paths are opened in
// parallel and bind later. It searches below the ports that the system uses for outgoing
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

// allFree reports whether the ports are free. The caller holds givenBases.
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
