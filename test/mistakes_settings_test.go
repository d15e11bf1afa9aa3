package test

import (
	"net"
	"strconv"
)

// settingsMistakes are in a command line, a file, or the machine that the agent runs on.
var settingsMistakes = []mistake{
	{
		name: "The bootstrap port is taken",
		make: func(s *site) { s.take(s.agent.flags["listen"]) },
		mend: func(s *site) {
			s.lift()
			s.agent.restart()
		},
	}, {
		name: "A broker's port is taken",
		make: func(s *site) { s.take(s.nodeAddress(1)) },
		ask:  func(s *site) string { s.askMetadata(); return s.askAgent() },
		mend: (*site).lift,
	}, {
		name: "The port of the admin listener is taken",
		make: func(s *site) { s.take(s.agent.flags["admin-listen"]) },
		mend: func(s *site) {
			s.lift()
			s.agent.restart()
		},
	}, {
		name: "The agent listens on every address and does not say which one clients use",
		make: func(s *site) { s.agent.flags["listen"] = address("0.0.0.0", s.port()) },
		mend: func(s *site) {
			s.agent.flags["listen"] = address(clientHost, s.port())
			s.agent.restart()
		},
	}, {
		name: "The agent listens on an address that this machine does not have",
		make: func(s *site) { s.agent.flags["listen"] = address("192.0.2.1", s.port()) },
		mend: func(s *site) {
			s.agent.flags["listen"] = address(clientHost, s.port())
			s.agent.restart()
		},
	}, {
		name: "The token file does not exist",
		make: func(s *site) { s.agent.flags["token-file"] = s.file("no-such-file") },
		mend: func(s *site) {
			s.copy("token", "no-such-file")
			s.agent.restart()
		},
	}, {
		name: "The token file is empty",
		make: func(s *site) { s.write("agent-token", "") },
		mend: func(s *site) {
			s.copy("token", "agent-token")
			s.agent.restart()
		},
	}, {
		name: "The configuration file has an unknown key",
		make: func(s *site) {
			s.write("agent.yml", "gatewayurl: https://kafka.example.com\n")
			s.agent.flags["config"] = s.file("agent.yml")
		},
		mend: func(s *site) {
			s.write("agent.yml", "log-level: info\n")
			s.agent.restart()
		},
	}, {
		name: "The configuration file has sections",
		make: func(s *site) {
			s.write("agent.yml", "agent:\n  log-level: info\n")
			s.agent.flags["config"] = s.file("agent.yml")
		},
		mend: func(s *site) {
			s.write("agent.yml", "log-level: info\n")
			s.agent.restart()
		},
	}, {
		name: "A duration has no unit",
		make: func(s *site) {
			s.write("agent.yml", "drain-timeout: 5\n")
			s.agent.without("drain-timeout")
			s.agent.flags["config"] = s.file("agent.yml")
		},
		mend: func(s *site) {
			s.write("agent.yml", "drain-timeout: 5s\n")
			s.agent.restart()
		},
	}, {
		name: "The gateway has neither a token nor a client CA",
		make: func(s *site) { s.gateway.without("token-file") },
		mend: func(s *site) {
			s.gateway.flags["token-file"] = s.file("token")
			s.gateway.restart()
		},
	},
}

// port is the agent's bootstrap port.
func (s *site) port() int {
	base, err := strconv.Atoi(s.agent.flags["broker-port-base"])
	try(s.T, err)
	return base - 1
}

// nodeAddress is where the agent listens for a node.
func (s *site) nodeAddress(id int) string { return address(clientHost, s.port()+1+id) }

// take holds a port until lift.
func (s *site) take(address string) {
	s.Helper()
	l, err := net.Listen("tcp", address)
	try(s.T, err)
	s.taken = append(s.taken, l)
	s.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1<<10))
			c.Close()
		}
	}()
}
