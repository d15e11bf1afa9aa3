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

// TestAnAgentWrittenFromTheWireFormat has an agent that was written from docs/tunnel.md alone, in
// Python and on a QUIC stack that is not ours, talk to the gateway: the page is enough to build an
// end from, and the gateway does what it says.
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
