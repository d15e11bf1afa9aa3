package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// clockTick is the unit of times in /proc. USER_HZ is 100 on every system that Go supports.
const clockTick = 10 * time.Millisecond

// ends has one value for the agent and one for the gateway of a row.
type ends[T any] struct{ agent, gateway T }

// used is the user and system time that processes have taken.
type used struct {
	ends[time.Duration]
	rest time.Duration // of brokers and load
}

func (u used) both() time.Duration { return u.agent + u.gateway }

func (u used) since(before used) used {
	return used{ends[time.Duration]{u.agent - before.agent, u.gateway - before.gateway}, u.rest - before.rest}
}

// usage returns what the processes of a row have used so far. ok is false where there is no /proc.
func usage(r *row) (u used, ok bool) {
	for _, p := range []struct {
		pid int
		sum *time.Duration
	}{{pid(r.agent), &u.agent}, {pid(r.gateway), &u.gateway}, {pid(r.cluster), &u.rest}, {os.Getpid(), &u.rest}} {
		if p.pid == 0 {
			continue
		}
		t, err := cpu(p.pid)
		if err != nil {
			return u, false
		}
		*p.sum += t
	}
	return u, true
}

// pid is 0 where there is no process.
func pid(p *proc.Process) int {
	if p == nil {
		return 0
	}
	return p.Pid()
}

// cpu returns the user and system time that a process has taken.
func cpu(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from the third on, proc_pid_stat(5)
	const utime, stime = 14 - 3, 15 - 3
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// growth measures how far the memory of a row's processes rises during a run.
func growth(r *row, during func() error) (grown ends[int64], ok bool, err error) {
	before, ok := memories(r, func(p *proc.Process) (int64, error) {
		if err := forgetPeak(p); err != nil {
			return 0, err
		}
		return memory(p, "VmRSS")
	})
	if err := during(); err != nil || !ok {
		return grown, false, err
	}
	peak, ok := memories(r, func(p *proc.Process) (int64, error) { return memory(p, "VmHWM") })
	grown.agent = max(0, peak.agent-before.agent)
	grown.gateway = max(0, peak.gateway-before.gateway)
	return grown, ok, nil
}

func memories(r *row, of func(*proc.Process) (int64, error)) (m ends[int64], ok bool) {
	var err error
	if r.agent == nil {
		return m, false
	}
	if m.agent, err = of(r.agent); err != nil {
		return m, false
	}
	if r.gateway != nil {
		m.gateway, err = of(r.gateway)
	}
	return m, err == nil
}

// forgetPeak resets VmHWM of a process.
func forgetPeak(p *proc.Process) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Pid()), []byte("5"), 0)
}

// memory returns a size from proc_pid_status(5), in bytes.
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
