package ingress

import (
	"os/exec"
	"time"
)

// Nginx accepts HTTP/1.1 and HTTP/2 and forwards HTTP/1.1. The zero value is the manual's
// configuration for WebSockets: other requests are forwarded when their body is complete, which may
// have 1 MiB.
type Nginx struct {
	Streams     bool          // bodies are not buffered, in both directions
	BodyLimit   string        // client_max_body_size; "" is nginx's default, 1m; "0" is none
	NoWebSocket bool          // without the headers that an upgrade needs
	IdleCut     time.Duration // proxy_read_timeout; 0 is nginx's default, a minute
	From, To    string        // the path of requests that are forwarded, and what it is replaced by; "": all, as they are
	TLS         bool          // the backend speaks TLS
	ReloadCut   time.Duration // worker_shutdown_timeout; 0: connections survive a reload
	MaxStreams  int           // http2_max_concurrent_streams; 0 is nginx's default, 128
}

const nginxConf = `
daemon off; pid nginx.pid; error_log /dev/stderr notice;
worker_processes 1;
{{with .ReloadCutMS}}worker_shutdown_timeout {{.}}ms;{{end}}
events {}
http {
  access_log /dev/stderr;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen 127.0.0.1:{{.Port}} ssl http2;
    ssl_certificate {{.Cert}}; ssl_certificate_key {{.Key}};
    {{with .MaxStreams}}http2_max_concurrent_streams {{.}};{{end}}
    {{with .BodyLimit}}client_max_body_size {{.}};{{end}}
    location {{or .From "/"}} {
      proxy_pass {{if .TLS}}https{{else}}http{{end}}://{{.Backend}}{{.To}};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      {{if not .NoWebSocket}}proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;{{end}}
      {{if .Streams}}proxy_request_buffering off; proxy_buffering off;{{end}}
      {{with .IdleCutMS}}proxy_read_timeout {{.}}ms;{{end}}
    }
  }
}
`

func (n Nginx) command(p params) (*exec.Cmd, error) {
	path, err := debian("nginx")
	if err != nil {
		return nil, err
	}
	data := struct {
		params
		Nginx
		IdleCutMS, ReloadCutMS int64
	}{p, n, n.IdleCut.Milliseconds(), n.ReloadCut.Milliseconds()}
	return exec.Command(path, "-p", p.Dir+"/", "-c", p.file("nginx.conf"), "-e", "/dev/stderr"), p.write("nginx.conf", nginxConf, data)
}
