package main

import (
	"os"
	"path/filepath"
	"testing"
)

// An agent has the same settings wherever it got them from.
func TestAnAgentWithTheSameSettings(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte("gateway-url: https://kafka.example.com\nbroker-port-base: 20000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CULVERT_LISTEN", "127.0.0.9:9092") // this process's, not the agent's
	c := &doctorCmd{agentFlags: agentFlags{GatewayURL: []string{"https://kafka.example.com"}, Listen: []string{"127.0.0.1:9092"}, BrokerPortBase: 20000}}
	url, base := "--gateway-url=https://kafka.example.com", "--broker-port-base=20000"
	for _, test := range []struct {
		args, environ []string
		want          bool
	}{
		{[]string{"culvert", "agent", url, base}, nil, true},
		{[]string{"/usr/bin/culvert", "agent", "--log-level", "debug", base, "--gateway-url", "https://kafka.example.com"}, []string{}, true},
		{[]string{"culvert", "agent", base}, []string{"CULVERT_GATEWAY_URL=https://kafka.example.com"}, true},
		{[]string{"culvert", "agent", "--config", "agent.yaml"}, []string{}, true},
		{[]string{"culvert", "agent"}, []string{"CULVERT_CONFIG=agent.yaml"}, true},
		{[]string{"culvert", "agent", url, base}, []string{"CULVERT_LISTEN=127.0.0.9:9092"}, false},
		{[]string{"culvert", "agent", url}, []string{}, false},
		{[]string{"culvert", "agent", "--gateway-url=https://other.example.com", base}, []string{}, false},
		{[]string{"culvert", "agent", url, base, "--node-address", "7=127.0.0.1:7777"}, []string{}, false},
		{[]string{"culvert", "doctor", url, base}, []string{}, false},
		{[]string{"culvert", "agent", "--no-such-flag"}, []string{}, false},
		{[]string{"culvert", "agent", "--help"}, []string{}, false},
		{[]string{"nginx"}, []string{}, false},
		{nil, nil, false},
	} {
		if got := c.runsAs(test.args, test.environ, dir); got != test.want {
			t.Errorf("runsAs(%q, %q) = %v, want %v", test.args, test.environ, got, test.want)
		}
	}
}
