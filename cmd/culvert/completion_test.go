package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// newParser is the command line as run makes it.
func newParser(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("culvert"), kong.NoDefaultHelp())
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

func TestCandidates(t *testing.T) {
	node := newParser(t).Model.Node
	for _, c := range []struct{ words, want string }{
		{"d|", "doctor demo"},
		{"he|", "help"},
		{"help| ga|", "gateway"},
		{"man|", ""}, // it is hidden
		{"config|", "config"},
		{"config| |", "agent gateway"},
		{"config| agent| --listen-tls-c|", "--listen-tls-cert-file"},
		{"agent| --transp|", "--transport"},
		{"agent| --transport| h|", "h3 h2"},
		{"agent| --transport=h|", "--transport=h3 --transport=h2"},
		{"agent| --transport| =| h|", "--transport=h3 --transport=h2"}, // bash
		{"agent| --transport| =|", "--transport=auto --transport=h3 --transport=ws --transport=h2"},
		{"agent| --token-file| t|", ":files"},
		{"agent| --token-file=t|", ":files"},
		{"agent| --gateway-url| https| :| //x| --token-file| |", ":files"}, // bash, which cuts at colons
		{"agent| --listen| |", ""},
		{"agent| --admin-page| --log-f|", "--log-format"},
		{"gateway| --gateway-u|", ""}, // a flag of the agent
		{"--log-level| w|", "warn"},
		{"-h| ag|", "agent"},
		{"agent| --no-such-flag| --conf|", "--config"},
		{"completion| |", "bash fish zsh"},
		{"--vers|", "--version"},
		{"=|", ""},
		{"", ""},
	} {
		words := strings.Split(strings.TrimSuffix(c.words, "|"), "| ")
		if c.words == "" {
			words = nil
		}
		var got []string
		for _, candidate := range candidates(node, words) {
			got = append(got, candidate.word)
			if strings.ContainsAny(candidate.word+candidate.help, "\t\n") {
				t.Errorf("%q has a line of its own in the middle", candidate)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q becomes %q, want %q", words, got, c.want)
		}
	}
}
