package test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/culvert-proxy/culvert/test/ingress"
)

// gatewayMistakes are on the way from the agent to the gateway.
var gatewayMistakes = []mistake{
	{
		name: "The gateway is not running",
		make: func(s *site) { s.gateway.absent = true },
		mend: func(s *site) { s.gateway.restart() },
	}, {
		name: "The gateway's machine drops packets",
		make: func(s *site) {
			s.gateway.absent = true
			s.dropsAt(s.gateway.flags["listen"])
		},
		mend: func(s *site) {
			s.lift()
			s.gateway.restart()
		},
	}, {
		name: "The gateway's name does not resolve",
		make: func(s *site) {
			s.agent.resolve(nil)
			s.agent.flags["gateway-url"] = "https://" + net.JoinHostPort(gatewayName, portOf(s.gateway.flags["listen"]))
		},
		mend: func(s *site) { s.agent.resolve(map[string]string{gatewayName: clientHost}) },
	}, {
		name: "The URL has http:// and the gateway speaks TLS",
		make: func(s *site) { s.agent.flags["gateway-url"] = "http://" + s.gateway.flags["listen"] },
		mend: func(s *site) {
			s.agent.flags["gateway-url"] = "https://" + s.gateway.flags["listen"]
			s.agent.restart()
		},
	}, {
		name: "The URL has https:// and the gateway has no certificate",
		make: func(s *site) { s.gateway.without("tls-cert-file", "tls-key-file") },
		mend: func(s *site) {
			s.gateway.flags["tls-cert-file"], s.gateway.flags["tls-key-file"] = s.file("gateway.pem"), s.file("gateway-key.pem")
			s.gateway.restart()
		},
	}, {
		name: "The gateway's certificate is from a CA that the agent does not know",
		make: func(s *site) {
			s.copy("ca.pem", "right-ca.pem")
			s.newCertificate("other-ca.pem", "other", 60*24*time.Hour, clientHost)
			s.copy("other-ca.pem", "ca.pem")
		},
		mend: func(s *site) { s.copy("right-ca.pem", "ca.pem") },
	}, {
		name: "The gateway's certificate has expired",
		make: func(s *site) { s.newCertificate("ca.pem", "gateway", -time.Minute, clientHost) },
		mend: func(s *site) { s.newCertificate("ca.pem", "gateway", 60*24*time.Hour, clientHost) },
	}, {
		name: "The gateway's certificate is for another name",
		make: func(s *site) { s.newCertificate("ca.pem", "gateway", 60*24*time.Hour, gatewayName) },
		mend: func(s *site) { s.newCertificate("ca.pem", "gateway", 60*24*time.Hour, clientHost) },
	}, {
		name: "The agent has another token than the gateway",
		make: func(s *site) { s.write("agent-token", "test=not-the-right-token\n") },
		mend: func(s *site) { s.copy("token", "agent-token") },
	}, {
		name: "The agent has no token",
		make: func(s *site) { s.agent.without("token-file") },
		mend: func(s *site) {
			s.agent.flags["token-file"] = s.file("agent-token")
			s.agent.restart()
		},
	}, {
		name: "The gateway wants a client certificate and the agent has none",
		make: func(s *site) { s.gateway.flags["client-ca-file"] = s.file("ca.pem") },
		mend: func(s *site) {
			s.agent.flags["gateway-cert-file"], s.agent.flags["gateway-key-file"] = s.file("gateway.pem"), s.file("gateway-key.pem")
			s.agent.restart()
		},
	}, {
		name: "A web server answers instead of the gateway",
		make: func(s *site) {
			s.webServer(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>Welcome</html>")) })
		},
		mend: (*site).useGateway,
	}, {
		name: "The URL has a path that leads nowhere",
		make: func(s *site) { s.webServer(http.NotFound) },
		mend: (*site).useGateway,
	}, {
		name: "The ingress wants a login first",
		make: func(s *site) {
			s.webServer(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://login.example.com/", http.StatusFound)
			})
		},
		mend: (*site).useGateway,
	}, {
		name: "The ingress runs and the gateway behind it does not",
		make: func(s *site) {
			s.behind(ingress.Nginx{})
			s.gateway.absent = true
		},
		mend: func(s *site) { s.gateway.restart() },
	}, {
		name: "The ingress removes the headers of WebSocket, and buffers",
		make: func(s *site) { s.behind(ingress.Nginx{NoWebSocket: true}) },
		mend: func(s *site) {
			s.behind(ingress.Nginx{})
			s.agent.restart()
		},
	}, {
		name: "The agent is told to use h3, and the ingress has none",
		make: func(s *site) {
			s.behind(ingress.Nginx{})
			s.agent.flags["transport"] = "h3"
		},
		mend: func(s *site) {
			s.agent.without("transport")
			s.agent.restart()
		},
	}, {
		name: "The load balancer sends PROXY headers and the gateway does not expect them",
		make: func(s *site) { s.behind(ingress.HAProxy{Balances: "send-proxy-v2"}) },
		mend: func(s *site) {
			s.gateway.flags["proxy-protocol"] = clientHost
			s.gateway.restart()
		},
	}, {
		name: "The gateway expects PROXY headers and the load balancer sends none",
		make: func(s *site) {
			s.behind(ingress.HAProxy{Balances: "no-send-proxy"})
			s.gateway.flags["proxy-protocol"] = "127.0.0.0/8"
		},
		mend: func(s *site) {
			s.gateway.without("proxy-protocol")
			s.gateway.restart()
		},
	}, {
		name: "HTTPS_PROXY leads to a proxy that does not run",
		make: func(s *site) {
			s.outside()
			s.agent.env = []string{"HTTPS_PROXY=http://" + s.freeAddress(clientHost)}
		},
		mend: func(s *site) {
			s.agent.env = nil
			s.agent.restart()
		},
	},
}

// without removes settings.
func (e *end) without(flags ...string) {
	for _, flag := range flags {
		delete(e.flags, flag)
	}
}

// webServer starts a web server over TLS where the agent looks for the gateway. The gateway runs
// elsewhere.
func (s *site) webServer(answer http.HandlerFunc) {
	s.Helper()
	server := httptest.NewUnstartedServer(answer)
	server.TLS = s.serverTLS("gateway")
	server.StartTLS()
	s.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	try(s.T, err)
	s.agent.flags["gateway-url"] = "https://" + u.Host
}

// useGateway starts the agent again, with the gateway's URL.
func (s *site) useGateway() {
	s.Helper()
	s.agent.flags["gateway-url"] = "https://" + s.gateway.flags["listen"]
	s.agent.restart()
}

// behind puts the gateway behind an ingress. The gateway speaks HTTP without TLS then.
func (s *site) behind(program ingress.Program) {
	s.Helper()
	ingress.Need(s.T)
	s.gateway.without("tls-cert-file", "tls-key-file")
	i := ingress.Start(s.T, program, ingress.Config{
		Backend: s.gateway.flags["listen"], Cert: s.file("gateway.pem"), Key: s.file("gateway-key.pem"), CA: s.file("ca.pem"),
	})
	s.agent.flags["gateway-url"] = i.URL
}

// outside gives the gateway a name that is not one of this machine, so that settings of a proxy
// apply.
func (s *site) outside() {
	s.agent.resolve(map[string]string{gatewayName: clientHost})
	s.agent.flags["gateway-url"] = "https://" + net.JoinHostPort(gatewayName, portOf(s.gateway.flags["listen"]))
}
