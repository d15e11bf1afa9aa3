package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

const (
	// maxResponse bounds what is read of a response: that to ApiVersions has some hundred bytes.
	maxResponse = 4 << 20
	// clientID is who the brokers' request logs say has asked.
	clientID = "culvert-doctor"
)

// apiVersions asks what every broker answers, before any login, and returns the number of API keys.
func apiVersions(ctx context.Context, c net.Conn) (int, error) {
	request := kmsg.NewPtrApiVersionsRequest() // of version 0
	response := kmsg.NewPtrApiVersionsResponse()
	if err := ask(ctx, c, request, response); err != nil {
		return 0, err
	}
	return len(response.ApiKeys), kerr.ErrorForCode(response.ErrorCode)
}

// askForLogin asks by which mechanisms a broker logs clients in. On a listener without a login,
// Kafka answers with an error, ILLEGAL_SASL_STATE, and none is true. A Metadata request would find
// out too, but a broker that wants a login closes the connection without an answer, which both ends
// of a tunnel warn of.
func askForLogin(ctx context.Context, c net.Conn, mechanism string) (mechanisms []string, none bool, err error) {
	request := kmsg.NewPtrSASLHandshakeRequest()
	request.Version, request.Mechanism = 1, mechanism
	response := kmsg.NewPtrSASLHandshakeResponse()
	if err := ask(ctx, c, request, response); err != nil {
		return nil, false, err
	}
	for _, m := range response.SupportedMechanisms {
		mechanisms = append(mechanisms, printable.Text(m, printable.Name))
	}
	return mechanisms, response.ErrorCode == kerr.IllegalSaslState.Code, nil
}

// refusesStrangers reports whether a broker closes the connection instead of answering a client that
// has not logged in.
func refusesStrangers(ctx context.Context, c net.Conn) (bool, error) {
	_, _, err := proxy.AskForBrokers(ctx, c, clientID)
	if errors.Is(err, proxy.ErrUnanswered) {
		return true, nil
	}
	return false, err
}

// ask sends a request and reads its response, both of a version without tagged fields.
func ask(ctx context.Context, c net.Conn, request kmsg.Request, response kmsg.Response) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	const correlationID = 1
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, request, correlationID)
	if _, err := c.Write(frame); err != nil {
		return err
	}
	var head [8]byte // size and correlation id
	if n, err := io.ReadFull(c, head[:]); err != nil {
		if n == 0 && proxy.ClosedUnanswered(err) {
			return proxy.ErrUnanswered
		}
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if id := binary.BigEndian.Uint32(head[4:]); size < 4 || size > maxResponse || id != correlationID {
		return fmt.Errorf("the answer is not a Kafka broker's: it begins with %q", head)
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	response.SetVersion(request.GetVersion())
	return response.ReadFrom(body)
}
