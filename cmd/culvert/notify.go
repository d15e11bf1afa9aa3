package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

const (
	// maxStatusText is the most bytes of the text that systemctl status shows of us.
	maxStatusText = 1 << 10
	// statusEvery is how old that text may be.
	statusEvery = 1 * time.Second
	// notifyTimeout bounds the wait for a service manager that does not read its socket.
	notifyTimeout = 5 * time.Second
	// stopMargin is what a process that has drained may need to end.
	stopMargin = 5 * time.Second
)

// serviceManager is what started this process and wants to know its state: systemd, for units with
// Type=notify. See sd_notify(3).
type serviceManager struct {
	socket string // a path, or @ and an abstract name; "": there is no such manager
	log    *slog.Logger
}

func newServiceManager(log *slog.Logger) *serviceManager {
	return &serviceManager{os.Getenv("NOTIFY_SOCKET"), log}
}

// listening says that the process has started. Brokers may be missing still: a service that waits
// for them would be killed and started again during an outage.
func (m *serviceManager) listening() { m.send("READY=1") }

// during tells the manager what is missing while run runs, and that the process stops when ctx is
// done.
func (m *serviceManager) during(ctx context.Context, drain time.Duration, missing func() error, run func(context.Context) error) error {
	if m.socket == "" {
		return run(ctx)
	}
	following, stop := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		m.follow(following, missing)
		m.stopping(drain)
	})
	defer telling.Wait()
	defer stop()
	return run(ctx)
}

// follow says what missing returns, whenever that has changed, until ctx is done.
func (m *serviceManager) follow(ctx context.Context, missing func() error) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for said := ""; ctx.Err() == nil; {
		status := "ready"
		if err := missing(); err != nil {
			status = "not ready: " + err.Error()
		}
		if status != said {
			m.send("STATUS=" + statusText(status))
			said = status
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// stopping asks for the time that a drain may take, which may be longer than what the unit says.
func (m *serviceManager) stopping(drain time.Duration) {
	m.send("STOPPING=1", "STATUS=draining", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (drain+stopMargin).Microseconds()))
}

// statusText is text as one line: a line break would begin another assignment.
func statusText(text string) string { return printable.Text(text, maxStatusText) }

// send sends assignments in one datagram. The process goes on if it cannot, and the manager may end
// it for its silence: the log then says why.
func (m *serviceManager) send(assignments ...string) {
	if m.socket == "" {
		return
	}
	if err := sendDatagram(m.socket, assignments); err != nil {
		m.log.Warn("the service manager was not told of the state of this process", "err", err)
	}
}

func sendDatagram(socket string, assignments []string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err = c.Write([]byte(strings.Join(assignments, "\n")))
	return err
}
