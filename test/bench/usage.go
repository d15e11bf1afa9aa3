package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// side is the processes of a row on one side of the tunnel.
type side []*proc.Process

// cpu returns the time that the processes have taken so far.
func (s side) cpu() (sum time.Duration, err error) {
	for _, p := range s {
		t, err := cpu(p.Pid())
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// memory returns the sum of a size from proc_pid_status(5), in bytes.
func (s side) memory(field string) (sum int64, err error) {
	for _, p := range s {
		n, err := memory(p, field)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// forgetPeak resets VmHWM of the processes.
func (s side) forgetPeak() error {
	for _, p := range s {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Pid()), []byte("5"), 0); err != nil {
			return err
		}
	}
	return nil
}

func memory(p *proc.Process, field string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, p.Pid())
}

// used is the time that the processes of a row have taken.
type used struct {
	agent, gateway time.Duration
	rest           time.Duration // brokers and load
}

// usage returns what has been used so far. ok is false where that cannot be read.
func (r *row) usage() (u used, ok bool) {
	load, err := cpu(os.Getpid())
	if err != nil {
		return u, false
	}
	for _, s := range []struct {
		side
		sum *time.Duration
	}{{r.agent, &u.agent}, {r.gateway, &u.gateway}, {side{r.cluster}, &u.rest}} {
		if *s.sum, err = s.cpu(); err != nil {
			return u, false
		}
	}
	u.rest += load
	return u, true
}

func (u used) since(before used) used {
	return used{u.agent - before.agent, u.gateway - before.gateway, u.rest - before.rest}
}

// spent sets how much CPU a row took for each of n things. A side without processes has no figure.
func (f figures) spent(r *row, u used, n float64, agent, gateway, both quantity) {
	if len(r.agent) > 0 {
		f.set(agent, u.agent.Seconds()/n)
		f.set(both, (u.agent+u.gateway).Seconds()/n)
	}
	if len(r.gateway) > 0 {
		f.set(gateway, u.gateway.Seconds()/n)
	}
}

// memories sets a size of each side that has processes, if it can be read.
func (f figures) memories(r *row, of func(side) (int64, error), agent, gateway quantity) {
	for _, s := range []struct {
		side
		quantity
	}{{r.agent, agent}, {r.gateway, gateway}} {
		if n, err := of(s.side); err == nil && len(s.side) > 0 {
			f.set(s.quantity, float64(n))
		}
	}
}

func peak(s side) (int64, error) { return s.memory("VmHWM") }

func resident(s side) (int64, error) { return s.memory("VmRSS") }

// forgetPeaks lets the next peak be that of what comes now.
func (r *row) forgetPeaks() {
	for _, s := range []side{r.agent, r.gateway} {
		_ = s.forgetPeak() // where that is impossible, the peak is that of the process's whole life
	}
}

// grown sets how far a size has risen since f. What has shrunk has not grown.
func (f figures) grown(before, after figures, q quantity, n float64) {
	a, known := after[q.name]
	if b, ok := before[q.name]; ok && known {
		f.set(q, max(0, a-b)/n)
	}
}
