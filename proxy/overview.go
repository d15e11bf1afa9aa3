package proxy

import (
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Status returns what /status shows of this agent: all but what only its caller knows, which is the
// build, the credentials and the other listeners. It may be called at any time, from any goroutine.
func (a *Agent) Status() document.Document {
	d := document.Document{Version: document.Version, End: document.Agent}
	d.State = document.State{Name: document.Ready}
	if err := a.Ready(); err != nil {
		d.State = document.State{Name: document.NotReady, Why: err.Error()}
	}
	for _, l := range a.NodeListeners() {
		d.Nodes = append(d.Nodes, document.Node{ID: l.NodeID, Local: []string{l.Address}})
	}
	return d
}

// Status is as [Agent.Status], of this gateway.
func (g *Gateway) Status() document.Document {
	d := document.Document{Version: document.Version, End: document.Gateway}
	d.State = document.State{Name: document.Ready}
	if err := g.Ready(); err != nil {
		d.State = document.State{Name: document.NotReady, Why: err.Error()}
	}
	return d
}
