package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// effective returns what culvert config prints for a setting: its value and its origin.
func effective(t *testing.T, setting string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(append([]string{"config"}, args...), &stdout, &stderr); code != 0 {
		t.Fatalf("culvert config %q ended with %d: %s", args, code, &stderr)
	}
	for line := range strings.Lines(stdout.String()) {
		if value, ok := strings.CutPrefix(line, setting+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("culvert config %q does not print %s", args, setting)
	return ""
}

func TestAFlagBeatsTheEnvironmentBeatsTheFileBeatsTheDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "culvert.yaml")
	const content = "gateway-url: https://x\nbroker-port-base: 3000\nlisten: [127.0.0.3:1]\nrelay-unknown-apis: yes\ndrain-timeout: 3s\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := []string{"agent", "--gateway-url", "https://x"}
	withFile := []string{"agent", "--config", file}
	for _, test := range []struct{ setting, def, file, env, flag string }{
		{"broker-port-base", "19092", "3000", "2000", "1000"},
		{"listen", "['127.0.0.1:9092']", "['127.0.0.3:1']", "['127.0.0.2:1', '127.0.0.22:1']", "['127.0.0.1:1', '127.0.0.11:1']"},
		{"relay-unknown-apis", "false", "true", "false", "true"},
		{"drain-timeout", "25s", "3s", "2s", "1s"},
	} {
		t.Run(test.setting, func(t *testing.T) {
			check := func(want, origin string, args ...string) {
				t.Helper()
				if got := effective(t, test.setting, args...); got != want+" # "+origin {
					t.Errorf("%s: %s, want %s # %s", test.setting, got, want, origin)
				}
			}
			plain := func(s string) string { return strings.NewReplacer("[", "", "]", "", "'", "", " ", "").Replace(s) }
			check(test.def, "default", gateway...)
			check(test.file, file, withFile...)
			t.Setenv(envName(test.setting), plain(test.env))
			check(test.env, envName(test.setting), withFile...)
			check(test.env, envName(test.setting), gateway...)
			check(test.flag, "flag", append(withFile, "--"+test.setting+"="+plain(test.flag))...)
			check(test.flag, "flag", append(gateway, "--"+test.setting+"="+plain(test.flag))...)
		})
	}
}

// A repeated setting can be written the same way on the command line, in the environment and in the
// file.
func TestAListIsWrittenAlikeEverywhere(t *testing.T) {
	const want = "[tcp://kafka-0:9092, tcp://kafka-1:9092]"
	file := filepath.Join(t.TempDir(), "culvert.yaml")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(how string, args ...string) {
		t.Helper()
		value, _, _ := strings.Cut(effective(t, "gateway-url", append([]string{"agent"}, args...)...), " #")
		if got := strings.ReplaceAll(value, "'", ""); got != want {
			t.Errorf("%s: %s, want %s", how, got, want)
		}
	}
	check("repeated", "--gateway-url", "tcp://kafka-0:9092", "--gateway-url", "tcp://kafka-1:9092")
	check("comma", "--gateway-url", "tcp://kafka-0:9092,tcp://kafka-1:9092")
	write("gateway-url: [tcp://kafka-0:9092, tcp://kafka-1:9092]")
	check("list in the file", "--config", file)
	write("gateway-url: tcp://kafka-0:9092,tcp://kafka-1:9092")
	check("comma in the file", "--config", file)
	t.Setenv("CULVERT_GATEWAY_URL", "tcp://kafka-0:9092,tcp://kafka-1:9092")
	check("environment")
}

// However a list of brokers is written after tcp://, it means the same.
func TestACommaContinuesAListOfBrokers(t *testing.T) {
	for _, list := range [][]string{
		{"tcp://a:1", "b:2"}, {"tcp://a:1,b:2"}, {"tcp://a:1", "tcp://b:2"}, {"tcp://a:1/", " tcp://b:2 "},
	} {
		gateways, brokers, err := parseGateways(list)
		if err != nil || len(gateways) != 0 || fmt.Sprint(brokers) != "[a:1 b:2]" {
			t.Errorf("parseGateways(%q) = %v, %v, %v", list, gateways, brokers, err)
		}
	}
	if _, _, err := parseGateways([]string{"https://a", "b:2"}); err == nil {
		t.Error("a host without a scheme was taken for a gateway")
	}
}

func TestTheNearestNameIsSuggestedIfItIsNear(t *testing.T) {
	names := []string{"gateway-url", "gateway-ca-file", "token-file", "listen"}
	for written, want := range map[string]string{
		"gatway-url": "gateway-url", "gateway_url": "gateway-url", "GATEWAY-URL": "gateway-url", "tokenfile": "token-file",
		"lisen": "listen", "carriers": "", "x": "",
	} {
		if got := nearest(written, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", written, got, want)
		}
	}
}
