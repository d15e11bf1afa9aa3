package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// askTimeout bounds a request of our own, from the dial to the response. Clients wait for it,
	// and give a new connection 10 s and more.
	askTimeout = 5 * time.Second
	// metadataVersion is the version of our Metadata request. It is the oldest one that can forbid
	// the broker to create topics, its response has the cluster id, and all brokers since Kafka
	// 0.11 support it.
	metadataVersion = 4
	// ownCorrelationID is the correlation id of a request of our own. A constant is enough, since
	// it is the only request on its connection.
	ownCorrelationID = 0
)

// ErrUnanswered is returned by [AskForBrokers] if the broker closed the connection instead of
// answering. A broker does so if it requires TLS, or a login first.
var ErrUnanswered = errors.New("the broker closed the connection without answering")

// AskForBrokers asks the broker at the other end of c which brokers its cluster has. It sends no
// credentials, and returns [ErrUnanswered] if the broker requires some. The caller closes c, whose
// deadline AskForBrokers has changed.
func AskForBrokers(ctx context.Context, c net.Conn, clientID string) (cluster string, brokers []rewrite.Broker, err error) {
	return askForBrokers(ctx, c, brokersRequest(clientID))
}

// askForBrokers is AskForBrokers for a request whose first bytes have been sent already. rest is
// what is left of it, and may be empty.
func askForBrokers(ctx context.Context, c net.Conn, rest []byte) (cluster string, brokers []rewrite.Broker, err error) {
	err = askBroker(ctx, c, rest, func(f *protocol.Flow, size int64) (err error) {
		cluster, brokers, err = rewrite.Brokers(f, protocol.Metadata, metadataVersion, size)
		return err
	})
	return cluster, brokers, err
}

// brokersRequest returns the frame of a request for the brokers.
func brokersRequest(clientID string) []byte {
	request := kmsg.NewPtrMetadataRequest()
	request.Version = metadataVersion
	request.Topics = []kmsg.MetadataRequestTopic{} // empty means no topics, nil means all
	return frameOf(request, clientID)
}

// apiVersionsRequest returns the frame of a request for a broker's API versions. Brokers answer it
// before a login.
func apiVersionsRequest(clientID string) []byte {
	return frameOf(kmsg.NewPtrApiVersionsRequest(), clientID)
}

func frameOf(request kmsg.Request, clientID string) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, request, ownCorrelationID)
}

// askVersions asks the broker at the other end of c for its API versions, which brokers tell before
// a login, and returns how long the answer took. It waits no longer than patience.
func askVersions(ctx context.Context, c net.Conn, clientID string, patience time.Duration) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	asked := time.Now()
	err = askBroker(ctx, c, apiVersionsRequest(clientID), func(f *protocol.Flow, size int64) error { return f.PassThrough(size) })
	if err != nil {
		return 0, fmt.Errorf("ask broker at %s for its API versions: %w", c.RemoteAddr(), err)
	}
	return time.Since(asked), nil
}

// explainAnswer adds to an error of askVersions what it means that there is no answer of Kafka's.
func explainAnswer(err error, names hints.Names) error {
	switch {
	case errors.Is(err, protocol.ErrForeign):
		return explainForeign(err, names)
	case errors.Is(err, ErrUnanswered):
		return hints.New(err, names.Sprintf("do %s and %s match a listener of the brokers? It may want TLS", hints.Bootstrap, hints.BrokerTLS))
	}
	return err
}

// askBroker writes request to c and calls read with the response: the next size bytes of f. Reads
// and writes fail when ctx is done.
func askBroker(ctx context.Context, c net.Conn, request []byte, read func(f *protocol.Flow, size int64) error) error {
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := c.Write(request); err != nil {
		return err
	}
	f := protocol.NewFlow(c, io.Discard)
	defer f.Release()
	size, id, err := protocol.PeekResponse(f)
	switch {
	case err != nil && f.Buffered() == 0 && ClosedUnanswered(err):
		return ErrUnanswered
	case err != nil:
		return err
	case id != ownCorrelationID:
		return fmt.Errorf("a response with correlation id %d, which matches no request", id)
	}
	return read(f, size)
}

// ClosedUnanswered reports whether err, from the first read of a connection, means that the broker
// ended the connection, with a FIN or a reset. It is false if the tunnel failed.
func ClosedUnanswered(err error) bool {
	if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return e.Code == tunnel.CodeBroker
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// ownClientID is the client id of an agent's own requests.
const ownClientID = "culvert-agent"
