package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

const (
	// goneAfter is how long a node must not have been named by any response before its name is
	// refused. A broker that restarts is missing from metadata too, and for clients in Java a
	// refused handshake is final: they report it to the application and do not try again.
	goneAfter = 10 * time.Minute
	// askPause is the least time between two questions to the cluster about nodes. Clients choose
	// the names that they ask for, and do so before they have authenticated.
	askPause = time.Second
)

// serverNames tells by the server name in a client's TLS handshake which node the client wants, for
// an agent with BrokerNames. Set the fields up to log, and call init, before use.
type serverNames struct {
	BrokerNames
	listens  []Listen
	expected []int32
	nodes    *nodes
	ask      func(ctx context.Context, node int32) (route, error) // the cluster, about a node
	names    hints.Names
	log      *slog.Logger

	tls      *tls.Config  // what handshakes begin with; configFor may replace it
	refusing *tls.Config  // has no certificate: package tls then sends the alert unrecognized_name
	logged   atomic.Int32 // nodes for which the certificate is not
}

// serverName is what one client's handshake asked for.
type serverName struct {
	name    string
	node    int32
	refusal *nameRefusal // nil: it leads to node
}

type serverNameKey struct{} // of a *serverName in a handshake's context

// nameRefusal says why a name leads nowhere. Without alert, the client may try again: the
// connection is reset.
type nameRefusal struct {
	text, hint string
	alert      bool
}

func (r *nameRefusal) Error() string { return r.text }

// init makes the TLS configs from those of the agent's listeners.
func (s *serverNames) init(config *tls.Config) {
	s.tls, s.refusing = config.Clone(), &tls.Config{MinVersion: config.MinVersion, SessionTicketsDisabled: true}
	s.tls.GetConfigForClient = s.configFor
	s.tls.WrapSession, s.tls.UnwrapSession = s.wrapSession, s.unwrapSession
}

// configFor decides a handshake. It is called with the first message of a client, before anything
// is answered.
func (s *serverNames) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	asked, ok := hello.Context().Value(serverNameKey{}).(*serverName)
	if !ok {
		return nil, errors.New("handshake without a place for the server name")
	}
	asked.name = hello.ServerName
	if asked.node, asked.refusal = s.find(hello.Context(), hello.ServerName); asked.refusal == nil {
		return nil, nil
	}
	if asked.refusal.alert {
		return s.refusing, nil
	}
	reset(hello.Conn, nil) // before package tls sends an alert
	return nil, asked.refusal
}

// find returns the node that a name leads to, which may be bootstrapNode.
func (s *serverNames) find(ctx context.Context, name string) (int32, *nameRefusal) {
	if id, ok := s.NodeID(name); ok {
		return id, s.findNode(ctx, id)
	}
	certificate, err := CertificateOf(s.tls)
	if err != nil {
		return 0, &nameRefusal{text: "certificate for clients: " + err.Error()} // the file's own warning has a hint
	}
	bootstrap := s.Bootstrap(s.listens, certificate)
	if slices.Contains(bootstrap, strings.ToLower(name)) {
		return bootstrapNode, nil
	}
	const most = 4 // names in the hint
	hint := fmt.Sprintf("bootstrap.servers must be a name that leads to the bootstrap brokers: %s", strings.Join(bootstrap[:min(len(bootstrap), most)], ", "))
	if name == "" {
		return 0, &nameRefusal{"the client sends no server name (SNI)", hint + "; clients send none for an IP address, and Java none for a name without a dot", true}
	}
	return 0, &nameRefusal{"the name is neither that of a broker, as " + s.String() + ", nor of the bootstrap", hint, true}
}

// findNode returns nil if clients may connect to a node. It refuses a node for good only if the
// cluster has answered and does not have it.
func (s *serverNames) findNode(ctx context.Context, id int32) *nameRefusal {
	last, known := s.nodes.lastNamed(id)
	if _, ok := s.nodes.lookup(id); ok || slices.Contains(s.expected, id) || known && time.Since(last) < goneAfter {
		return nil
	}
	_, err := s.ask(ctx, id)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoSuchNode):
		return &nameRefusal{fmt.Sprintf("the cluster has no broker %d", id), "was it removed, or does the name belong to another cluster?", true}
	case known:
		return nil
	case errors.Is(err, errNeedsCredentials):
		return &nameRefusal{
			text: fmt.Sprintf("broker %d is not known yet, and the cluster cannot be asked without credentials", id),
			hint: s.names.Sprintf("where several agents share a name, list the node ids with %s: a client learns of a broker from one agent and connects to another", hints.ExpectNodes),
		}
	}
	return &nameRefusal{text: fmt.Sprintf("broker %d is not known yet: %v", id, err), hint: "the client may try again; is the cluster reached?"}
}

// checkCertificate warns if the certificate is not for a node's name, for the first maxLogged nodes.
func (s *serverNames) checkCertificate(node int32) {
	certificate, err := CertificateOf(s.tls)
	if err != nil {
		return // handshakes fail, and say so
	}
	if err := s.Uncovered(certificate, []int32{node}); err != nil && s.logged.Add(1) <= maxLogged {
		s.log.Warn("clients that check the agent's certificate will not connect to a broker", "node_id", node, "err", err,
			"hint", s.names.Sprintf("the certificate of %s must contain the name of each broker, or a wildcard for them", hints.ListenTLSCertFile))
	}
}

// sessionPrefix begins what we add to a TLS session.
const sessionPrefix = "culvert server name: "

// wrapSession makes the ticket of a session, which holds the name that the session is for: RFC 6066
// does not let a session be resumed under another one.
func (s *serverNames) wrapSession(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
	session.Extra = append(session.Extra, []byte(sessionPrefix+strings.ToLower(state.ServerName)))
	return s.tls.EncryptTicket(state, session)
}

// unwrapSession reads a ticket. One for another name is as none: the handshake is then a full one.
func (s *serverNames) unwrapSession(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
	session, err := s.tls.DecryptTicket(ticket, state)
	if session == nil || err != nil {
		return nil, err
	}
	want := sessionPrefix + strings.ToLower(state.ServerName)
	if !slices.ContainsFunc(session.Extra, func(b []byte) bool { return string(b) == want }) {
		return nil, nil
	}
	return session, nil
}
