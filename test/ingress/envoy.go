package ingress

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Envoy accepts HTTP/1.1, HTTP/2 and HTTP/3, and forwards one of them.
type Envoy struct {
	Back       Protocol      // how it speaks to the gateway
	NoUpgrades bool          // as by default: it refuses WebSockets and extended CONNECT
	IdleCut    time.Duration // stream_idle_timeout; 0 is Envoy's default, five minutes
	Lifetime   time.Duration // max_stream_duration, also of busy streams; 0 is none
	NoUDP      bool          // without HTTP/3
	NoGRO      bool          // without prefer_gro, which is Envoy's default
	MaxStreams int           // max_concurrent_streams of HTTP/2 and HTTP/3 connections; 0 is Envoy's default
}

// Protocol is what an ingress speaks to a gateway.
type Protocol int

// The protocols of an [Envoy] towards the gateway: HTTP/1.1 and HTTP/2 without TLS, and HTTP/3.
const (
	H1 Protocol = iota
	H2C
	H3
)

func (e Envoy) command(p params) (*exec.Cmd, error) {
	path, err := wheel(filepath.Join("lib", "python*", "site-packages", "envoy", "_bin", "envoy"))
	if err != nil {
		return nil, err
	}
	config, err := e.config(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "-c", p.file("envoy.json"), "--concurrency", "1", "-l", "warning", "--disable-hot-restart")
	return cmd, os.WriteFile(p.file("envoy.json"), config, 0o600)
}

// object and list are JSON's.
type (
	object = map[string]any
	list   = []any
)

func (e Envoy) config(p params) ([]byte, error) {
	host, port, err := net.SplitHostPort(p.Backend)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	cluster := object{
		"name": "gateway", "type": "STATIC", "connect_timeout": "2s",
		"load_assignment": object{"cluster_name": "gateway", "endpoints": list{object{"lb_endpoints": list{object{
			"endpoint": object{"address": socket("TCP", host, number)},
		}}}}},
		"typed_extension_protocol_options": object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", object{
				"explicit_http_config": e.Back.options(),
			}),
		},
	}
	if e.Back == H3 {
		cluster["transport_socket"] = object{"name": "envoy.transport_sockets.quic", "typed_config": typed(
			"envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport", object{"upstream_tls_context": object{
				"sni":                "localhost",
				"common_tls_context": object{"validation_context": object{"trusted_ca": object{"filename": p.CA}}},
			}})}
	}
	listeners := list{e.tcpListener(p)}
	if !e.NoUDP {
		listeners = append(listeners, e.udpListener(p))
	}
	return json.MarshalIndent(object{"static_resources": object{"listeners": listeners, "clusters": list{cluster}}}, "", "  ")
}

// options returns what each protocol needs to carry a tunnel.
func (p Protocol) options() object {
	switch p {
	case H2C:
		return object{"http2_protocol_options": object{"allow_connect": true}}
	case H3:
		return object{"http3_protocol_options": object{"allow_extended_connect": true}}
	}
	return object{"http_protocol_options": object{}}
}

func (e Envoy) tcpListener(p params) object {
	return object{
		"name": "tcp", "address": socket("TCP", "127.0.0.1", p.Port),
		"filter_chains": list{object{
			"filters": list{e.manager("AUTO")},
			"transport_socket": object{"name": "envoy.transport_sockets.tls", "typed_config": typed(
				"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", object{"common_tls_context": object{
					"alpn_protocols": list{"h2", "http/1.1"}, "tls_certificates": certificates(p),
				}})},
		}},
	}
}

// udpListener enables prefer_gro, so that Envoy reads packets that the kernel has merged. By
// default Envoy asks the kernel to merge them and then reads only the first, which makes uploads
// very slow.
func (e Envoy) udpListener(p params) object {
	return object{
		"name": "udp", "address": socket("UDP", "127.0.0.1", p.Port),
		"udp_listener_config": object{"quic_options": object{}, "downstream_socket_config": object{"prefer_gro": !e.NoGRO}},
		"filter_chains": list{object{
			"filters": list{e.manager("HTTP3")},
			"transport_socket": object{"name": "envoy.transport_sockets.quic", "typed_config": typed(
				"envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport", object{"downstream_tls_context": object{
					"common_tls_context": object{"tls_certificates": certificates(p)},
				}})},
		}},
	}
}

// manager returns the HTTP connection manager.
func (e Envoy) manager(codec string) object {
	route := object{"match": object{"prefix": "/"}, "route": object{"cluster": "gateway", "timeout": "0s"}}
	h2, h3 := object{"allow_connect": true}, object{"allow_extended_connect": true}
	if e.MaxStreams > 0 {
		h2["max_concurrent_streams"] = e.MaxStreams
		h3["quic_protocol_options"] = object{"max_concurrent_streams": e.MaxStreams}
	}
	m := object{
		"stat_prefix": "ingress", "codec_type": codec,
		"route_config":           object{"virtual_hosts": list{object{"name": "all", "domains": list{"*"}, "routes": list{route}}}},
		"http_filters":           list{object{"name": "envoy.filters.http.router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", nil)}},
		"upgrade_configs":        list{object{"upgrade_type": "websocket"}, object{"upgrade_type": "culvert"}},
		"http2_protocol_options": h2,
		"access_log": list{object{"name": "envoy.access_loggers.stderr", "typed_config": typed(
			"envoy.extensions.access_loggers.stream.v3.StderrAccessLog", nil)}},
	}
	if codec == "HTTP3" {
		m["http3_protocol_options"] = h3
	}
	if e.NoUpgrades {
		delete(m, "upgrade_configs")
	}
	if e.IdleCut > 0 {
		m["stream_idle_timeout"] = seconds(e.IdleCut)
	}
	if e.Lifetime > 0 {
		m["common_http_protocol_options"] = object{"max_stream_duration": seconds(e.Lifetime)}
	}
	return object{"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(
		"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", m)}
}

// typed adds the message's type to fields.
func typed(message string, fields object) object {
	all := object{"@type": "type.googleapis.com/" + message}
	maps.Copy(all, fields)
	return all
}

func socket(protocol, host string, port int) object {
	return object{"socket_address": object{"protocol": protocol, "address": host, "port_value": port}}
}

func certificates(p params) list {
	return list{object{"certificate_chain": object{"filename": p.Cert}, "private_key": object{"filename": p.Key}}}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%gs", d.Seconds()) }
