// Package test runs the built binary against the real thing: Apache Kafka whose
// brokers advertise names that nobody outside can resolve, `culvert gateway`
// beside them, `culvert agent` beside unmodified clients, one HTTPS port in
// between, and a leak detector in front of each client.
package test

import (
	"os"
	"testing"

	"github.com/culvert-proxy/culvert/test/inside"
)

func TestMain(m *testing.M) {
	inside.Main()
	status := m.Run()
	closeShared()
	os.Exit(status)
}

// needReal skips a test that installs and starts the real thing, unless it was
// asked for.
func needReal(t *testing.T) {
	t.Helper()
	if os.Getenv("CULVERT_TEST_REAL") == "" {
		t.Skip("needs Apache Kafka and its clients: set CULVERT_TEST_REAL=1 to install and start them (go run ./test/all does)")
	}
	if err := inside.Available(); err != nil {
		t.Skip(err)
	}
}
