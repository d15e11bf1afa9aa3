package test

import (
	"crypto/tls"
	"net/http"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clientMistakes are on the way from the client to the agent.
var clientMistakes = []mistake{
	{
		name: "The client speaks TLS and the agent does not",
		ask: func(s *site) string {
			if s.mended {
				return s.askAgent()
			}
			return s.askOverTLS(&tls.Config{InsecureSkipVerify: true})
		},
	}, {
		name: "The agent speaks TLS and the client does not",
		make: (*site).agentOverTLS,
		ask: func(s *site) string {
			if s.mended {
				return s.askOverTLS(s.clientTLS())
			}
			return s.askAgent()
		},
		options: func(s *site) []kgo.Opt { return []kgo.Opt{kgo.DialTLSConfig(s.clientTLS())} },
	}, {
		name: "The client does not trust the agent's certificate",
		make: (*site).agentOverTLS,
		ask: func(s *site) string {
			if s.mended {
				return s.askOverTLS(s.clientTLS())
			}
			return s.askOverTLS(&tls.Config{})
		},
		options: func(s *site) []kgo.Opt { return []kgo.Opt{kgo.DialTLSConfig(s.clientTLS())} },
	}, {
		name: "A browser opens the agent's Kafka port",
		ask: func(s *site) string {
			if s.mended {
				return s.askAgent()
			}
			r, err := http.Get("http://" + s.agent.flags["listen"])
			if err == nil {
				r.Body.Close()
			}
			return sees(err)
		},
	}, {
		name: "The client uses the gateway's port",
		ask: func(s *site) string {
			if s.mended {
				return s.askAgent()
			}
			return s.askAt(s.gateway.flags["listen"])
		},
	},
}

// agentOverTLS gives the agent the gateway's certificate.
func (s *site) agentOverTLS() {
	s.agent.flags["listen-tls-cert-file"], s.agent.flags["listen-tls-key-file"] = s.file("gateway.pem"), s.file("gateway-key.pem")
}
