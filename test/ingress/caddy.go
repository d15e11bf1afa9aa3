package ingress

import (
	"os"
	"os/exec"
	"path/filepath"
)

// Caddy takes HTTP/1.1, HTTP/2 and HTTP/3.
//
// Caddy must never create certificates. By default it does so for a name that its certificate
// lacks, and then adds its own authority to those that the whole machine trusts.
type Caddy struct {
	H2C bool // forwards HTTP/2 without TLS; otherwise HTTP/1.1
}

const caddyfile = `
{
	admin off
	auto_https off
	skip_install_trust
	storage file_system {{.Dir}}
}
https://127.0.0.1:{{.Port}} {
	bind 127.0.0.1
	tls {{.Cert}} {{.Key}}
	reverse_proxy {{if .H2C}}h2c://{{end}}{{.Backend}} {
		flush_interval -1
	}
}
`

func (c Caddy) command(p params) (*exec.Cmd, error) {
	path, err := wheel(filepath.Join("bin", "caddy"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "run", "--config", p.file("Caddyfile"), "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+p.Dir, "XDG_CONFIG_HOME="+p.Dir, "XDG_DATA_HOME="+p.Dir)
	return cmd, p.write("Caddyfile", caddyfile, struct {
		params
		Caddy
	}{p, c})
}
