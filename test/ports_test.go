package test

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// freeBase returns a port that is free, as are those at the given offsets from
// it, both where the agent listens and where the clients dial. It looks below
// the ports that the system gives to outgoing connections.
func freeBase(offsets []int) (int, error) {
	for range 100 {
		base := 20000 + rand.IntN(10000)
		if allFree(base, offsets) {
			return base, nil
		}
	}
	return 0, errors.New("no free range of ports")
}

func allFree(base int, offsets []int) bool {
	for _, offset := range offsets {
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
