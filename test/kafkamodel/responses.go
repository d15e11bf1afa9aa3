package kafkamodel

import (
	"encoding/binary"
	"maps"
	"reflect"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// answer is the response to a request, with an error code if the response has one for the whole.
func (b *Broker) answer(h header, code int16) Event {
	e := h.event()
	e.Answered = true
	if b.cfg.Respond != nil && code == 0 {
		if body := b.cfg.Respond(e); body != nil {
			e.Response = h.response(body)
			return e
		}
	}
	e.Response = h.response(b.body(h, code))
	return e
}

// answerToken is the response to SaslAuthenticate.
func (b *Broker) answerToken(h header, token []byte) Event {
	e := h.event()
	e.Answered = true
	response := kmsg.NewSASLAuthenticateResponse()
	response.SetVersion(h.version)
	response.SASLAuthBytes = token
	e.Response = h.response(response.AppendTo(nil))
	return e
}

func (b *Broker) body(h header, code int16) []byte {
	response := kmsg.ResponseForKey(h.key)
	response.SetVersion(h.responseVersion())
	if field := reflect.ValueOf(response).Elem().FieldByName("ErrorCode"); field.IsValid() {
		field.SetInt(int64(code))
	}
	switch r := response.(type) {
	case *kmsg.SASLHandshakeResponse:
		if code != illegalSASLState {
			r.SupportedMechanisms = b.cfg.Mechanisms
		}
	case *kmsg.ApiVersionsResponse:
		r.ApiKeys = offered(code)
	}
	return response.AppendTo(nil)
}

// offered are the versions in ApiVersions: only its own where the request's is not supported, none
// with another error.
func offered(code int16) (keys []kmsg.ApiVersionsResponseApiKey) {
	for _, key := range slices.Sorted(maps.Keys(apis)) {
		a := apis[key]
		switch {
		case a.min > a.max || a.controller || a.hidden:
			continue
		case code == unsupportedVersion && key != apiVersions || code != unsupportedVersion && code != 0:
			continue
		}
		offer := kmsg.NewApiVersionsResponseApiKey()
		offer.ApiKey, offer.MinVersion, offer.MaxVersion = key, a.min, a.max
		if key == produce {
			offer.MinVersion = 0 // ApiKeys.PRODUCE_API_VERSIONS_RESPONSE_MIN_VERSION: for librdkafka, see KAFKA-18659
		}
		keys = append(keys, offer)
	}
	return keys
}

// responseVersion is the version of the response: requests.RequestContext. apiVersion.
func (h header) responseVersion() int16 {
	if h.key == apiVersions && !h.supported() {
		return 0
	}
	return h.version
}

// response puts length and header before a body. The response to ApiVersions never has tagged
// fields in its header: message.ApiMessageType. responseHeaderVersion.
func (h header) response(body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(h.correlationID))
	if h.flexible() && h.key != apiVersions {
		b = append(b, 0)
	}
	return sized(append(b, body...))
}

func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}
