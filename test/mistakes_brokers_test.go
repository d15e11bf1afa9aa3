package test

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

// brokerMistakes are on the way from the gateway to the brokers.
var brokerMistakes = []mistake{
	{
		name: "No broker is running",
		make: (*site).stopBrokers,
		mend: func(s *site) { s.startBrokers() },
	}, {
		name: "The brokers end while clients work",
		then: (*site).stopBrokers,
		mend: func(s *site) { s.startBrokers() },
	}, {
		name: "The gateway has the wrong bootstrap address",
		make: func(s *site) { s.gateway.flags["bootstrap"] = s.freeAddress(clientHost) },
		mend: func(s *site) {
			s.gateway.flags["bootstrap"] = s.bootstrap()
			s.gateway.restart()
		},
	}, {
		name: "One broker refuses connections",
		make: func(s *site) { s.gateway.hosts[fakekafka.Host(2)] = "127.0.0.7" },
		ask:  (*site).askLastNode,
		mend: func(s *site) { s.gateway.resolve(map[string]string{fakekafka.Host(2): clientHost}) },
	}, {
		name: "One broker drops packets",
		make: func(s *site) {
			s.gateway.hosts[fakekafka.Host(2)] = "127.0.0.7"
			s.dropsAt(address("127.0.0.7", s.brokerPorts[2]))
		},
		ask: (*site).askLastNode,
		mend: func(s *site) {
			s.lift()
			s.gateway.resolve(map[string]string{fakekafka.Host(2): clientHost})
		},
	}, {
		name: "The brokers' names do not resolve at the gateway",
		make: func(s *site) { clear(s.gateway.hosts) },
		ask:  (*site).askLastNode,
		mend: func(s *site) {
			for id := range int32(brokersOfASite) {
				s.gateway.resolve(map[string]string{fakekafka.Host(id): clientHost})
			}
		},
	}, {
		name: "A broker's name resolves to an address that may not be dialled",
		make: func(s *site) { s.gateway.hosts[fakekafka.Host(2)] = "169.254.1.1" },
		ask:  (*site).askLastNode,
		mend: func(s *site) { s.gateway.resolve(map[string]string{fakekafka.Host(2): clientHost}) },
	}, {
		name: "The brokers want TLS and the gateway does not speak it",
		make: (*site).brokersOverTLS,
		mend: func(s *site) {
			s.gateway.flags["broker-tls"], s.gateway.flags["broker-ca-file"] = "true", s.file("ca.pem")
			s.gateway.restart()
		},
	}, {
		name: "The gateway speaks TLS and the brokers do not",
		make: func(s *site) { s.gateway.flags["broker-tls"] = "true" },
		mend: func(s *site) {
			s.gateway.without("broker-tls")
			s.gateway.restart()
		},
	}, {
		name: "The brokers' certificates are from a CA that the gateway does not know",
		make: func(s *site) {
			s.brokersOverTLS()
			s.newCertificate("brokers-ca.pem", "other", 60*24*time.Hour, clientHost)
			s.gateway.flags["broker-tls"], s.gateway.flags["broker-ca-file"] = "true", s.file("brokers-ca.pem")
		},
		mend: func(s *site) { s.copy("ca.pem", "brokers-ca.pem") },
	}, {
		name: "The brokers want SASL and the client does not log in",
		make: func(s *site) {
			s.stopBrokers()
			s.startBrokers(kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "alice-secret"))
		},
		ask: func(s *site) string {
			if s.mended {
				return s.askAgent()
			}
			return s.askMetadata()
		},
		options: func(*site) []kgo.Opt {
			return []kgo.Opt{kgo.SASL(plain.Auth{User: "alice", Pass: "alice-secret"}.AsMechanism())}
		},
	}, {
		name: "The broker closes on a request that it does not take",
		make: func(s *site) {
			s.cluster.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
				if s.mended {
					return nil, nil, false
				}
				s.cluster.KeepControl()
				return nil, errors.New("not taken"), true
			})
		},
		ask: (*site).askMetadata,
	},
}

// askLastNode is askAgent at the port of the last node, after a client has learnt of it.
func (s *site) askLastNode() string {
	s.askMetadata()
	return s.askNode(brokersOfASite - 1)
}

// brokersOverTLS starts the brokers with the gateway's certificate.
func (s *site) brokersOverTLS() {
	s.Helper()
	s.stopBrokers()
	names := []string{clientHost}
	for id := range int32(brokersOfASite) {
		names = append(names, fakekafka.Host(id))
	}
	s.newCertificate("ca.pem", "gateway", 60*24*time.Hour, names...)
	s.startBrokers(kfake.TLS(s.serverTLS("gateway")))
}
