package main

import (
	"strings"
	"testing"
)

func TestAnAgentSaysAtStartWhatItIgnores(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:1")
	t.Setenv("NO_PROXY", "10.*;kafka.example.com,192.168.*")
	agent := start(t, "agent", "--gateway-url", "https://kafka.example.com,https://other.example.com", "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none")
	agent.listening()
	for _, want := range []string{
		`"msg":"proxy setting has no effect","hint":"separate entries with commas: 10.*,kafka.example.com","err":"NO_PROXY: \"10.*;kafka.example.com\" is ignored"`,
		`"msg":"proxy setting has no effect","hint":"write it as 192.168.0.0/16","err":"NO_PROXY: \"192.168.*\" is ignored"`,
	} {
		if n := strings.Count(agent.text(), want); n != 1 {
			t.Errorf("said %d times, want once: %s\n%s", n, want, agent.text())
		}
	}
	if strings.Contains(agent.text(), "secret") {
		t.Errorf("the password of the proxy is in the log:\n%s", agent.text())
	}
}
