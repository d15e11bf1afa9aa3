package tunnel_test

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A gateway answers the question that arrives on each stream. There is no TLS, because both ends
// are in one process.
func Example() {
	gateway := &tunnel.Server{
		Serve: func(_ context.Context, c *tunnel.Conn, o *tunnel.Open, _ *tunnel.Peer) {
			question, _ := io.ReadAll(c)
			fmt.Fprintf(c, "%s? Ask %s.", question, o.Target)
			c.CloseWrite()
		},
	}
	ln := memnet.Listen("gateway:80")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		gateway.Run(ctx, ln, nil)
		gateway.Shutdown(context.Background())
	})

	agent := &tunnel.Dialer{URL: &url.URL{Scheme: "http", Host: "gateway"}, DialContext: ln.DialContext}
	c, err := agent.Dial(ctx, tunnel.Open{Target: "kafka-0:9092"}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	io.WriteString(c, "Where is topic a")
	c.CloseWrite()
	answer, err := io.ReadAll(c)
	fmt.Printf("%s %v\n", answer, err)

	c.Close()
	agent.Close()
	cancel()
	running.Wait()
	// Output: Where is topic a? Ask kafka-0:9092. <nil>
}
