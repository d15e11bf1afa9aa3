package ingress

import (
	"os/exec"
	"os/user"
)

// H2O accepts HTTP/1.1 and HTTP/2 and forwards HTTP/1.1. It holds a request until its body is
// complete.
type H2O struct {
	NoWebSocket bool // without proxy.websocket, which is off by default
}

const h2oConf = `
user: {{.User}}
num-threads: 1
error-log: /dev/stderr
access-log: /dev/stderr
hosts:
  default:
    listen: {host: 127.0.0.1, port: {{.Port}}, ssl: {certificate-file: {{.Cert}}, key-file: {{.Key}}}}
    paths:
      /:
        proxy.reverse.url: "http://{{.Backend}}"
        proxy.preserve-host: ON
        {{if not .NoWebSocket}}proxy.websocket: ON{{end}}
`

func (h H2O) command(p params) (*exec.Cmd, error) {
	path, err := debian("h2o")
	if err != nil {
		return nil, err
	}
	me, err := user.Current() // h2o wants to be told as whom it runs, if that is root
	if err != nil {
		return nil, err
	}
	data := struct {
		params
		H2O
		User string
	}{p, h, me.Username}
	return exec.Command(path, "--conf", p.file("h2o.conf"), "--mode", "worker"), p.write("h2o.conf", h2oConf, data)
}
