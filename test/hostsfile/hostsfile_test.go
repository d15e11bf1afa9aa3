package hostsfile

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/proc"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

const name = "broker-1.kafka.internal.invalid"

func TestNameResolvesInsideAndNotOutside(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := Write(hosts, map[string]string{name: "127.0.0.7"}); err != nil {
		t.Fatal(err)
	}
	got, err := proc.Run(t.Context(), Command(hosts, "/usr/bin/getent", "hosts", name))
	if err != nil || !strings.HasPrefix(got, "127.0.0.7") {
		t.Errorf("inside: %q, %v", got, err)
	}
	if found, err := net.LookupHost(name); err == nil {
		t.Errorf("outside: %s resolves to %s", name, found)
	}
}
