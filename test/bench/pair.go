package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// pair is other programs that carry Kafka, given by their commands. A file has one command per
// line, after the side on which it runs:
//
//	server: tunneld --listen {gateway} --certificate {cert} --key {key}
//	client: tunnel --to https://{gateway} --ca {cert} --forward {listen0}={broker0} --forward …
//
// The load connects to {listen0}, {listen1} and {listen2}, each of which leads to the broker with
// that number. {client:NAME} and {server:NAME} are other free addresses on a side, one per name.
// {host:X} and {port:X} are the two parts of an address X. Arguments are separated by spaces and
// cannot be quoted. Lines that begin with # are comments.
//
// CPU and memory are those of all commands on the client's side together, as the agent's, and of
// all on the server's side, as the gateway's.
type pair struct {
	name     string
	commands []command
}

// command is one program of a pair.
type command struct {
	server bool // else beside the clients
	args   []string
}

func readPair(name, file string) (p pair, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return p, err
	}
	p.name = name
	for line := range strings.Lines(string(text)) {
		where, args, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case where == "" || strings.HasPrefix(where, "#"):
		case (where == "client" || where == "server") && strings.TrimSpace(args) != "":
			p.commands = append(p.commands, command{where == "server", strings.Fields(args)})
		default:
			return p, fmt.Errorf("%s: want client: or server: before the command %q", file, strings.TrimSpace(line))
		}
	}
	if len(p.commands) == 0 {
		return p, fmt.Errorf("%s has no commands", file)
	}
	return p, nil
}

// startPair starts the programs of a pair and waits until a broker answers through them.
func (p *parts) startPair(with pair) (_ *row, err error) {
	r := &row{name: with.name, agent: side{}, parts: p}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w%s", err, r.said())
			r.stop()
		}
	}()
	places := &places{p, map[string]string{}}
	for i := range p.brokers {
		at, err := places.find(fmt.Sprintf("listen%d", i))
		if err != nil {
			return nil, err
		}
		r.brokers = append(r.brokers, at)
	}
	for _, c := range with.commands {
		args, err := places.fill(c.args)
		if err != nil {
			return nil, err
		}
		at, s := p.wan.client(), &r.agent
		if c.server {
			at, s = p.wan.server(), &r.gateway
		}
		started, err := proc.Start(at.Enter(exec.Command(args[0], args[1:]...)))
		if err != nil {
			return nil, err
		}
		*s = append(*s, started)
	}
	return r, r.awaitBrokers()
}

// awaitBrokers waits until all brokers answer.
func (r *row) awaitBrokers() (err error) {
	const patience = 30 * time.Second
	for _, at := range r.brokers {
		for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
			if _, err = r.parts.wan.discover(at); err == nil {
				break
			}
			if time.Since(begin) > patience {
				return fmt.Errorf("%s: %s does not lead to a broker: %w", r.name, at, err)
			}
		}
	}
	return nil
}

// places are the values of the placeholders in the commands of a pair.
type places struct {
	*parts
	known map[string]string
}

var placeholder = regexp.MustCompile(`\{(?:(host|port):)?([a-z]+[0-9]*(?::[a-zA-Z0-9-]+)?)\}`)

func (p *places) fill(args []string) (filled []string, err error) {
	for _, arg := range args {
		filled = append(filled, placeholder.ReplaceAllStringFunc(arg, func(s string) string {
			m := placeholder.FindStringSubmatch(s)
			value, e := p.find(m[2])
			if e != nil {
				err = e
			}
			host, port, _ := net.SplitHostPort(value)
			switch m[1] {
			case "host":
				return host
			case "port":
				return port
			}
			return value
		}))
	}
	return filled, err
}

// find returns the value of a placeholder, which stays the same for the whole pair.
func (p *places) find(name string) (value string, err error) {
	if value, ok := p.known[name]; ok {
		return value, nil
	}
	kind, _, _ := strings.Cut(name, ":")
	kind, number := strings.TrimRight(kind, "0123456789"), strings.TrimLeft(kind, "abcdefghijklmnopqrstuvwxyz")
	switch kind {
	case "cert", "key":
		value = p.file(kind + ".pem")
	case "listen", "client":
		value, err = p.free(p.wan.client())
	case "gateway", "server":
		value, err = p.free(p.wan.server())
	case "brokers":
		value = strings.Join(p.brokers, ",")
	case "broker":
		for i, at := range p.brokers {
			if number == fmt.Sprint(i) {
				value = at
			}
		}
	}
	if err == nil && value == "" {
		err = fmt.Errorf("nothing is called {%s}", name)
	}
	p.known[name] = value
	return value, err
}

// free returns an address on one side that nobody uses, and no address twice: the kernel may choose
// the port of a socket that was just closed.
func (p *parts) free(at *netns.Namespace) (string, error) {
	for {
		ln, err := at.Listen("tcp", net.JoinHostPort(p.wan.host(at), "0"))
		if err != nil {
			return "", err
		}
		ln.Close() // for a program to take
		if _, given := p.given.LoadOrStore(ln.Addr().String(), true); !given {
			return ln.Addr().String(), nil
		}
	}
}
