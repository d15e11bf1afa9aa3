// Package test runs the built binary against the real thing: Apache Kafka whose brokers advertise
// names that nobody outside can resolve, `culvert gateway` beside them, `culvert agent` beside
// unmodified clients, one HTTPS port in between, and a leak detector in front of each client.
package test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
)

func TestMain(m *testing.M) {
	hostsfile.Main()
	// These tests wait more than they work, and some measure how long they wait.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	status := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// needReal skips a test that starts the real thing, unless it was asked for and can be had.
func needReal(t *testing.T) {
	t.Helper()
	kafka.Need(t)
	if err := hostsfile.Available(); err != nil {
		t.Skip(err)
	}
}
