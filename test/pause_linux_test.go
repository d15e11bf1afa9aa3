package test

import (
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestAgentIsPaused stops an agent for longer than its connections live, as the sleep of a laptop
// does. Clients that connect in that time are answered when it is over, and soon. Waking up twice
// is no fault of the transport.
func TestAgentIsPaused(t *testing.T) {
	needReal(t)
	t.Parallel()
	b := sharedTestbed(t).withShortTimeouts(t)
	gateway, err := b.newGateway(t.Context())
	try(t, err)
	closeWith(t, gateway)
	for _, transport := range []string{"auto", "h3", "ws", "h2"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			p, err := b.newPath(t.Context(), gateway, transport)
			try(t, err)
			closeWith(t, p)
			if transport == "auto" {
				p.connect(t).mustAnswer(t)
				await(t, 2*patience, "auto takes h3", func() bool { return p.tunnel(t).Transport == "h3" })
			}
			for range 3 {
				pauseAgent(t, p)
				time.Sleep(scaled(25 * time.Second)) // cuts that are closer together count as one
			}
			if transport == "auto" {
				p.connect(t).mustAnswer(t)
				if state := p.tunnel(t); state.Transport != "h3" {
					t.Errorf("auto takes %s because %s", state.Transport, state.Why)
				}
			}
			if t.Failed() {
				t.Logf("log of the agent:\n%s", p.agent.Output())
			}
		})
	}
}

// pauseAgent opens connections, stops the agent, and has clients connect until it continues.
func pauseAgent(t *testing.T, p *path) {
	t.Helper()
	for range 6 {
		p.connect(t).mustAnswer(t)
	}
	try(t, syscall.Kill(p.agent.Pid(), syscall.SIGSTOP))
	time.Sleep(scaled(35 * time.Second))
	var clients sync.WaitGroup
	var mu sync.Mutex
	var slowest time.Duration
	for range 20 {
		c := p.connect(t)
		clients.Go(func() {
			took, err := c.ask(patience)
			mu.Lock()
			defer mu.Unlock()
			slowest = max(slowest, took)
			if err != nil {
				t.Errorf("no response: %v, after %v", err, took)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	try(t, syscall.Kill(p.agent.Pid(), syscall.SIGCONT))
	clients.Wait()
	t.Logf("the last of 20 clients was answered after %v", slowest.Round(time.Millisecond))
}
