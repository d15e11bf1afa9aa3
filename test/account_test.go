package test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// TestAccountStandIn runs the stand-in that docs/snowflake.md offers to readers without an account.
// An agent must connect with each command that it prints, with a token and with a key, and the
// doctor must find no fault.
func TestAccountStandIn(t *testing.T) {
	t.Parallel()
	needReal(t)
	commands := startAccount(t)
	if len(commands) != 2 {
		t.Fatalf("the stand-in prints %d commands, want one with a token and one with a key", len(commands))
	}
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range commands {
		port, err := freeBase([]int{0, 1, 2, 3})
		if err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--listen", address("127.0.0.1", port), "--broker-port-base", strconv.Itoa(port+1), "--admin-listen", "none", "--state-file", "none")
		agent, err := startCulvert(t.Context(), exec.Command(binary, append([]string{"agent"}, flags...)...))
		if err != nil {
			t.Fatal(err)
		}
		list, err := kcat(t, address("127.0.0.1", port), "", "-L")
		if err != nil {
			t.Error(err)
		}
		wantIn(t, list, "3 brokers:", "broker 2 at 127.0.0.1:"+strconv.Itoa(port+3), `topic "demo"`)
		if err := stopCulvert(agent); err != nil {
			t.Error(err)
		}
		runDoctor(t, binary, flags)
	}
}

// runDoctor runs the doctor with an agent's flags.
func runDoctor(t *testing.T, binary string, flags []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := proc.Run(ctx, exec.Command(binary, append([]string{"doctor"}, flags...)...)); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// startAccount starts the stand-in and returns the flags of the agents that it tells to start.
func startAccount(t *testing.T) (commands [][]string) {
	t.Helper()
	dir, err := cache.Dir()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	path := filepath.Join(dir, "account")
	if _, err := proc.Run(ctx, exec.Command("go", "build", "-o", path, "./account")); err != nil {
		t.Fatal(err)
	}
	ports, err := kafka.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	account, err := proc.Start(exec.Command(path, "-listen", address("127.0.0.1", ports[0]), "-dir", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := account.Terminate(10 * time.Second); err != nil {
			t.Errorf("end the stand-in: %v\n%s", err, account.Output())
		}
	})
	if _, err := account.Output().WaitLine(ctx, "Ctrl-C ends it all"); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(account.Output().String(), "\\\n", "")
	for line := range strings.Lines(text) {
		if flags, ok := strings.CutPrefix(strings.TrimSpace(line), "culvert agent "); ok {
			commands = append(commands, strings.Fields(flags))
		}
	}
	return commands
}
