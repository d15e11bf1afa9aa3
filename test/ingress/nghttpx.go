package ingress

import (
	"os/exec"
	"strconv"
	"strings"
)

// Nghttpx is the proxy of nghttp2. It accepts HTTP/1.1 and HTTP/2.
type Nghttpx struct {
	H2C bool // forwards HTTP/2 without TLS; otherwise HTTP/1.1
}

func (n Nghttpx) command(p params) (*exec.Cmd, error) {
	path, err := debian("nghttpx")
	if err != nil {
		return nil, err
	}
	backend := strings.Replace(p.Backend, ":", ",", 1)
	if n.H2C {
		backend += ";;proto=h2"
	}
	return exec.Command(path, "--conf=/dev/null", "--workers=1", "--errorlog-file=/dev/stderr", "--accesslog-file=/dev/stderr",
		"--frontend=127.0.0.1,"+strconv.Itoa(p.Port), "--backend="+backend, p.Key, p.Cert), nil
}
