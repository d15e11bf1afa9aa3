// Package ingress starts the programs that people put before a gateway, each as its manual says:
// nginx, HAProxy, Caddy and Envoy, which end HTTPS and pass on what is inside it, and squid,
// through which a company's machines reach the world.
//
// A program's fields are what its operators set differently, and the zero value is the ordinary
// configuration.
package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// patience is how long a program may take to start, or to end.
const patience = 20 * time.Second

// Config is what every ingress is told.
type Config struct {
	Backend   string // host:port of the gateway
	Cert, Key string // PEM files that clients are shown
	CA        string // PEM file that has signed the gateway's certificate, for programs that speak TLS to it
}

// Program is one of this package's types.
type Program interface {
	// command writes what the program reads into p.Dir, and returns how to run it in the
	// foreground.
	command(p params) (*exec.Cmd, error)
}

// params is where a program runs.
type params struct {
	Config
	Dir  string // its own; every user may enter it
	Port int    // of 127.0.0.1, free for TCP and UDP
}

// Ingress is a running program.
type Ingress struct {
	URL      string // for clients: https://127.0.0.1:port, and http:// for squid
	dir      string
	graceful bool // it wants to be asked to end
	process  *proc.Process
}

// Start starts a program that ends with the test, and returns when it answers.
func Start(t testing.TB, program Program, config Config) *Ingress {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	i, err := start(ctx, program, config)
	if err != nil {
		t.Fatalf("start %T: %v", program, err)
	}
	t.Cleanup(func() {
		i.close()
		if t.Failed() {
			t.Logf("what %T said:\n%s", program, i.Log())
		}
		os.RemoveAll(i.dir)
	})
	return i
}

func start(ctx context.Context, program Program, config Config) (_ *Ingress, err error) {
	p, err := newParams(config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(p.Dir)
		}
	}()
	cmd, err := program.command(p)
	if err != nil {
		return nil, err
	}
	_, isSquid := program.(Squid)
	contain(cmd, isSquid)
	i := &Ingress{URL: "https://" + p.address(), dir: p.Dir}
	probe := probeTLS
	if isSquid {
		i.URL, i.graceful, probe = "http://"+p.address(), true, probeTCP
	}
	if i.process, err = proc.Start(cmd); err != nil {
		return nil, err
	}
	if err := i.wait(ctx, p.address(), probe); err != nil {
		i.close()
		return nil, fmt.Errorf("%w\n%s", err, i.Log())
	}
	return i, nil
}

// newParams makes the folder. Programs that root starts go on as users who may not enter the test's
// own.
func newParams(config Config) (p params, err error) {
	p.Config = config
	if p.Port, err = freePort(); err != nil {
		return p, err
	}
	if p.Dir, err = os.MkdirTemp("", "culvert-ingress-"); err != nil {
		return p, err
	}
	return p, os.Chmod(p.Dir, 0o755)
}

// freePort returns a port that is free for TCP and UDP.
func freePort() (int, error) {
	for range 100 {
		ports, err := kafka.FreePorts(1)
		if err != nil {
			return 0, err
		}
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports[0]})
		if err != nil {
			continue
		}
		return ports[0], udp.Close()
	}
	return 0, errors.New("no port is free for both TCP and UDP")
}

func (p params) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port)) }

func (p params) file(name string) string { return filepath.Join(p.Dir, name) }

// write writes a file that is a template, filled in from data.
func (p params) write(name, text string, data any) error {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	return os.WriteFile(p.file(name), []byte(b.String()), 0o644)
}

// join writes a file that has others' contents, one behind the other.
func (p params) join(name string, files ...string) error {
	var all []byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	return os.WriteFile(p.file(name), all, 0o600)
}

// wait returns when somebody opens at address.
func (i *Ingress) wait(ctx context.Context, address string, probe func(context.Context, string) error) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := probe(ctx, address)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-i.process.Done():
			return errors.New("the program has ended")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

func probeTCP(ctx context.Context, address string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// probeTLS is no check of the certificate: the tests' clients do that.
func probeTLS(ctx context.Context, address string) error {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// Log returns the last of what the program has said.
func (i *Ingress) Log() string {
	all := i.process.Output().String()
	files, _ := filepath.Glob(filepath.Join(i.dir, "log", "*"))
	for _, file := range files {
		b, _ := os.ReadFile(file)
		all += string(b)
	}
	return all
}

// Reload has the program read its configuration again, as a deployment does (SIGHUP). The
// connections that are open then are its old worker's, which nginx ends after a while.
func (i *Ingress) Reload() error {
	p, err := os.FindProcess(i.process.Pid())
	if err != nil {
		return err
	}
	return p.Signal(syscall.SIGHUP)
}

// close ends the program at once: nobody needs its last words, and some take long over them. Only
// squid has to clear up what it keeps outside of its folder.
func (i *Ingress) close() {
	if i.graceful {
		_ = i.process.Terminate(patience)
		return
	}
	i.process.Kill()
}
