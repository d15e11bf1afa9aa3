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
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// askTimeout bounds a request of our own, from the dial to the answer.
	askTimeout = 5 * time.Second
	// metadataVersion is the version of our Metadata request: the oldest with a
	// cluster id that asks for no topics without creating any, and known to all
	// brokers since 0.11.
	metadataVersion = 4
	// ownCorrelationID is that of a request of our own, alone on its connection.
	ownCorrelationID = 0
)

// ErrUnanswered is returned for a broker that wants TLS, or a login before it answers:
// it closes the connection.
var ErrUnanswered = errors.New("the broker closes the connection instead of answering")

// AskForBrokers asks a broker, to which c leads, which brokers its cluster has,
// under a client id. It sends no credentials: [ErrUnanswered] is returned where
// the broker wants some. The caller closes c, whose deadline is not what it was.
func AskForBrokers(ctx context.Context, c net.Conn, clientID string) (cluster string, brokers []rewrite.Broker, err error) {
	return askForBrokers(ctx, c, brokersRequest(clientID))
}

// askForBrokers is AskForBrokers, where the first bytes of the request may be on
// their way already: rest are the others.
func askForBrokers(ctx context.Context, c net.Conn, rest []byte) (cluster string, brokers []rewrite.Broker, err error) {
	err = askBroker(ctx, c, rest, func(f *protocol.Flow, size int64) (err error) {
		cluster, brokers, err = rewrite.Brokers(f, protocol.Metadata, metadataVersion, size)
		return err
	})
	return cluster, brokers, err
}

// brokersRequest is the frame that asks for the brokers.
func brokersRequest(clientID string) []byte {
	request := kmsg.NewPtrMetadataRequest()
	request.Version = metadataVersion
	request.Topics = []kmsg.MetadataRequestTopic{} // none, where nil would be all
	return frameOf(request, clientID)
}

// apiVersionsRequest is the frame that asks what a broker speaks, which each tells
// whoever has not logged in.
func apiVersionsRequest(clientID string) []byte {
	return frameOf(kmsg.NewPtrApiVersionsRequest(), clientID)
}

func frameOf(request kmsg.Request, clientID string) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, request, ownCorrelationID)
}

// askBroker writes a request of our own to c and calls read with the response, of size
// bytes, in f. All of that ends when ctx is done.
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
		return fmt.Errorf("a response with correlation id %d to no request", id)
	}
	return read(f, size)
}

// ClosedUnanswered reports whether a read has failed because the broker ended the
// connection, in good order or with a reset, and not because of the way to it.
func ClosedUnanswered(err error) bool {
	if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return e.Code == tunnel.CodeBroker
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}
