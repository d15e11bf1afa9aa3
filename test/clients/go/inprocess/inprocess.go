// Package inprocess has each Go client dial through a gateway itself, without an agent.
package inprocess

import (
	"github.com/culvert-proxy/culvert/proxy/dialer"
	"github.com/culvert-proxy/culvert/test/clients/go/roundtrip"
)

// Dialer returns the dialer that the options of a trip describe, or nil if they name no gateway. The
// caller closes it. The trip's brokers become the gateway's.
func Dialer(t *roundtrip.Trip) (*dialer.Dialer, error) {
	gateway := t.Options["gateway"]
	if gateway == "" {
		return nil, nil
	}
	t.Brokers = []string{dialer.Bootstrap}
	return dialer.New(dialer.Config{
		GatewayURLs: []string{gateway}, Transport: t.Options["transport"],
		TokenFile: t.Options["token"], CAFile: t.Options["ca"], Snowflake: dialer.Snowflake{PATFile: t.Options["pat"]},
	})
}
