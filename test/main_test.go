// Package test runs the built binary against real programs: Apache Kafka whose brokers advertise
// names that do not resolve outside, `culvert gateway` beside them, `culvert agent` beside
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
	// These tests mostly wait, and some measure how long.
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

// needReal skips a test that starts real programs, unless they were requested and are available.
func needReal(t *testing.T) {
	t.Helper()
	kafka.Need(t)
	if err := hostsfile.Available(); err != nil {
		t.Skip(err)
	}
}
