package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// freeRange returns the first of n neighbouring ports that are free both where
// the agent listens and where the clients dial. It looks below the ports that
// the system gives to outgoing connections.
func freeRange(n int) (int, error) {
	for range 100 {
		first := 20000 + rand.IntN(10000)
		if rangeIsFree(first, n) {
			return first, nil
		}
	}
	return 0, errors.New("no free range of ports")
}

func rangeIsFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		for _, host := range []string{agentHost, clientHost} {
			l, err := net.Listen("tcp", address(host, port))
			if err != nil {
				return false
			}
			defer l.Close()
		}
	}
	return true
}

// nodeAddress is what a client must be told about a node.
func (p *path) nodeAddress(id int) string { return fmt.Sprintf("%s:%d", clientHost, p.base+id) }
