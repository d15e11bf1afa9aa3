package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// TestAnAgentWrittenFromTheWireFormat runs an agent written in Python from docs/tunnel.md alone, on
// another QUIC stack. So the page is enough to implement an agent, and the gateway does what it
// says.
func TestAnAgentWrittenFromTheWireFormat(t *testing.T) {
	bed := sharedTestbed(t)
	venv, err := cache.Python(t.Context(), "aioquic==1.7.2")
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, fmt.Errorf("not done within three minutes"))
	defer cancel()
	cmd := exec.Command(filepath.Join(venv, "bin", "python"), filepath.Join("pythonagent", "checks.py"), bed.gateway.listen, bed.file("ca.pem"), bed.file("token"))
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	said, err := proc.Run(ctx, cmd)
	t.Log(said)
	if err != nil {
		t.Error(err)
	}
	bed.logIfFailed(t)
}
