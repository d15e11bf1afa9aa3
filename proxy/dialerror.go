package proxy

import (
	"errors"
	"net"
	"net/netip"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/remedies"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// explain adds to the error of a dial what to do about it. A [tlsError] says that itself.
func (b *Brokers) explain(err error) error {
	if _, ok := errors.AsType[*tlsError](err); ok || hints.Of(err, nil) != nil {
		return err
	}
	switch remedies.CauseOf(err) {
	case remedies.NoDescriptors:
		return hints.New(err, remedies.Descriptors)
	case remedies.NoSuchName:
		if b.forward != "" {
			return hints.New(err, b.self()+" cannot resolve that name: correct its %s", hints.Forward)
		}
		return hints.New(err, b.self()+" cannot resolve that name: is it the broker's name there? If a broker advertises it, correct advertised.listeners or DNS")
	case remedies.NoNameServer:
		return hints.New(err, "does DNS work where "+b.self()+" runs?")
	case remedies.Refused:
		if b.forward != "" {
			return hints.New(err, "nothing listens there: does "+b.forward+" run, and is that its port?")
		}
		return hints.New(err, "nothing listens there: is the broker running, and is that the port of one of its listeners?")
	case remedies.NoRoute:
		return hints.New(err, b.self()+" has no route to that address: is it in the same network as "+b.peer()+"?")
	case remedies.Silence:
		return hints.New(err, "does a firewall, a security group or a network policy keep "+b.self()+" from that port?")
	}
	return err
}

// nobody is the remedy for an address that is never dialled.
func (b *Brokers) nobody(err error) error {
	if b.forward != "" {
		return hints.New(err, b.forward+" is not there: correct %s of the gateway, or the DNS name in it", hints.Forward)
	}
	return hints.New(err, "no broker is there: correct advertised.listeners of the broker, or the DNS name that leads there")
}

// couldAllow adds to the error of an address that may not be dialled which setting would allow it.
func (b *Brokers) couldAllow(err error, ip netip.Addr, port string) error {
	if b.direct {
		return hints.New(err, "to allow it, name it in %s, as in tcp://%s", hints.GatewayURL, net.JoinHostPort(ip.String(), port))
	}
	if b.forward != "" {
		return hints.New(err, "to allow it, write the IP address in %s of the gateway: %s", hints.Forward, b.forward+"="+net.JoinHostPort(ip.String(), port))
	}
	return hints.New(err, "to allow it, give the gateway %s with a prefix, as in %s:%s", hints.AllowBroker, single(ip).String(), port)
}

// peer is who is dialled.
func (b *Brokers) peer() string {
	if b.forward != "" {
		return b.forward
	}
	return "the broker"
}

// self is who dials the brokers. A gateway's hints are read where an agent runs.
func (b *Brokers) self() string {
	if b.direct {
		return "this agent"
	}
	return "the gateway"
}

// dialError returns what an agent is told when a dial has failed.
func dialError(err error, names hints.Names) *tunnel.Error {
	if err == nil {
		return nil
	}
	e := &tunnel.Error{Code: tunnel.CodeDial, Message: err.Error(), Remedy: hintOf(err, names)}
	if errors.Is(err, errNotAllowed) {
		e.Code = tunnel.CodeTarget
	}
	return e
}
