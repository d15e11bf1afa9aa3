package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestCompletion presses the keys of a user in each shell.
func TestCompletion(t *testing.T) {
	t.Parallel()
	needReal(t)
	for shell, start := range map[string][]string{
		"bash": {"bash --norc --noprofile", "source <(culvert completion bash)"},
		"zsh":  {"zsh -f", "autoload -Uz compinit && compinit -D && source <(culvert completion zsh)"},
		"fish": {"fish --no-config", "culvert completion fish | source"},
	} {
		t.Run(shell, func(t *testing.T) {
			if _, err := exec.LookPath(shell); err != nil {
				t.Skipf("needs %s (Debian: apt-get install %s)", shell, shell)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "secret-of-the-agent"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			tm := newTmux(t, 160, 40)
			tm.keys("cd "+dir+" && HOME="+dir+" exec "+start[0], "Enter")
			// The quotes are not on the screen before the shell has run this.
			tm.keys(start[1]+"; echo rea''dy", "Enter")
			tm.see("(?m)^ready")
			for _, typed := range []struct{ keys, want string }{
				{"culvert gatew", `culvert gateway`},
				{"culvert config ag", `culvert config agent`},
				{"culvert agent --gateway-ca", `culvert agent --gateway-ca-file`},
				{"culvert agent --transport w", `culvert agent --transport ws`},
				{"culvert agent --transport=a", `culvert agent --transport=auto`},
				{"culvert agent --token-file sec", `culvert agent --token-file secret-of-the-agent`},
				{"culvert agent --token-file=sec", `culvert agent --token-file=secret-of-the-agent`},
				{"culvert agent --gateway-url https://kafka.example.com --admin-pp", `--gateway-url https://kafka.example.com --admin-pprof`},
			} {
				tm.keys("-l", typed.keys)
				tm.keys("Tab")
				tm.see(typed.want)
				tm.keys("C-u")
			}
		})
	}
}
