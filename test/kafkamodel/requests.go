package kafkamodel

import "regexp"

const (
	produce            = 0
	saslHandshake      = 17
	apiVersions        = 18
	addPartitionsToTxn = 24
	saslAuthenticate   = 36
)

// Errors of protocol.Errors that the model itself answers with.
const (
	unsupportedSASLMechanism = 33
	illegalSASLState         = 34
	unsupportedVersion       = 35
	invalidRequest           = 42
	saslAuthenticationFailed = 58
)

// request is what an authenticated connection, or one of a listener without SASL, does with a
// frame: SocketServer.scala, Processor.processCompletedReceives and KafkaApis.scala, handle.
func (b *Broker) request(frame []byte) Event {
	h, body, refused := parseHeader(frame)
	if refused != "" {
		return refuse(refused)
	}
	if !h.enabled() {
		return h.event().close("key or version not enabled")
	}
	if h.key == saslHandshake && b.cfg.SASL && b.cfg.Reauthenticate != nil {
		b.reauths++
		if b.cfg.Reauthenticate(b.reauths - 1) {
			return b.reauthenticate(h, body)
		}
	}
	switch h.key {
	case produce:
		return b.produce(h, body)
	case apiVersions:
		e, _ := b.apiVersions(h, body)
		return e
	case saslHandshake: // KafkaApis.handleSaslHandshakeRequest
		if body.str(int32(body.int16())); body.failed {
			return h.event().close("body does not parse")
		}
		return b.answer(h, illegalSASLState)
	case saslAuthenticate: // KafkaApis.handleSaslAuthenticateRequest
		if body.authBytes(h.version); body.failed {
			return h.event().close("body does not parse")
		}
		return b.answer(h, illegalSASLState)
	case addPartitionsToTxn: // KafkaApis.handleAddPartitionsToTxnRequest
		if h.version < 4 {
			break
		}
		if n := body.elements(body.compactLength()); body.failed {
			return h.event().close("body does not parse")
		} else if n == 0 { // it answers once it has a result for the last transaction
			return h.event().hang("no transactions")
		}
	}
	return b.answer(h, 0)
}

// produce is KafkaApis.handleProduceRequest. Records that are null end in an exception, and so does
// the attempt to answer it, which counts their bytes (requests.ProduceRequest.getErrorResponse):
// the broker logs it and keeps the connection muted.
func (b *Broker) produce(h header, body *reader) Event {
	e := h.event()
	p := body.produce(h.version)
	if body.failed {
		return e.close("body does not parse")
	}
	failed := b.cfg.ProduceFails != nil && b.cfg.ProduceFails(e)
	switch {
	case p.null && !failed:
		return e.hang("null records")
	case p.acks != 0:
		return b.answer(h, 0)
	case failed:
		return e.close("acks 0 and an error")
	}
	return e
}

// produceBody is what matters of message.ProduceRequestData.
type produceBody struct {
	acks int16
	null bool // the records of a partition are null
}

// produce is message.ProduceRequestData.read. Bytes behind the body are not looked at.
func (r *reader) produce(version int16) (p produceBody) {
	flexible := int32(version) >= apis[produce].flexible
	length := func(plain func() int32) int32 {
		if flexible {
			return r.compactLength()
		}
		return plain()
	}
	short := func() int32 { return int32(r.int16()) }
	tags := func() {
		if flexible {
			r.tags()
		}
	}
	if n := length(short); n >= 0 { // every negative length is null
		r.str(n) // the transactional id
	}
	p.acks = r.int16()
	r.int32() // the timeout
	for range r.elements(length(r.int32)) {
		if version >= 13 {
			r.bytes(16) // the topic's id
		} else {
			r.str(length(short))
		}
		for range r.elements(length(r.int32)) {
			r.int32() // the partition
			if n := length(r.int32); n >= 0 {
				r.bytes(n)
			} else {
				p.null = true
			}
			if tags(); r.failed {
				return p
			}
		}
		if tags(); r.failed {
			return p
		}
	}
	tags()
	return p
}

// authBytes is message.SaslAuthenticateRequestData.read.
func (r *reader) authBytes(version int16) []byte {
	if int32(version) < apis[saslAuthenticate].flexible {
		return r.bytes(r.int32())
	}
	token := r.bytes(r.compactLength())
	r.tags()
	return token
}

// apiVersions is KafkaApis.handleApiVersionsRequest, and SaslServerAuthenticator.
// handleApiVersionsRequest, which does the same. The body of a version that is not supported is not
// read, and the answer to it is one to version 0. It reports whether the request was served.
func (b *Broker) apiVersions(h header, body *reader) (e Event, served bool) {
	if !h.supported() {
		return b.answer(h, unsupportedVersion), false
	}
	valid := true
	if h.version >= 3 {
		name, version := body.str(body.compactLength()), body.str(body.compactLength())
		valid = software.Match(name) && software.Match(version)
		body.tags()
	}
	if body.failed {
		return h.event().close("body does not parse"), false
	}
	if !valid {
		return b.answer(h, invalidRequest), false
	}
	return b.answer(h, 0), true
}

// software is requests.ApiVersionsRequest.SOFTWARE_NAME_VERSION_PATTERN.
var software = regexp.MustCompile(`\A[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?\z`)
