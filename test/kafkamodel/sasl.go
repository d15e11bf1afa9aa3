package kafkamodel

import "slices"

// Step is a broker's reaction to a token: security.sasl.SaslServer.
type Step struct {
	Result Result
	// Answer is the token that the broker returns. nil: none, which only GSSAPI does. An empty
	// token is still sent: as a frame of length 0 where tokens are raw.
	Answer []byte
}

// Result says how an authentication goes on.
type Result int

const (
	Continue Result = iota // another token is expected
	Done                   // the client is authenticated
	Fail                   // SaslException or AuthenticationException
	Crash                  // any other exception
)

// Rounds is an Authenticate that takes any token: PLAIN and OAUTHBEARER are done after the first,
// SCRAM after the second, GSSAPI after the third.
func Rounds(mechanism string, _ []byte, round int) Step {
	switch {
	case mechanism == "PLAIN" || mechanism == "OAUTHBEARER":
		return Step{Done, []byte{}}
	case mechanism == "GSSAPI" && round == 0:
		return Step{Continue, []byte("challenge")}
	case mechanism == "GSSAPI" && round == 1:
		return Step{Continue, []byte("layers")}
	case mechanism == "GSSAPI":
		return Step{Done, nil}
	case round == 0:
		return Step{Continue, []byte("r=nonce,s=c2FsdA==,i=4096")}
	}
	return Step{Done, []byte("v=c2lnbmF0dXJl")}
}

// stage is SaslServerAuthenticator.SaslState. A new connection starts with the first.
type stage int

const (
	handshakeOrVersions stage = iota // INITIAL_REQUEST, HANDSHAKE_OR_VERSIONS_REQUEST, which differ in what is logged
	handshake                        // HANDSHAKE_REQUEST: ApiVersions has been answered
	tokens                           // AUTHENTICATE
	badMechanism                     // REAUTH_BAD_MECHANISM
	authenticated                    // COMPLETE
)

type saslState struct {
	stage     stage
	mechanism string
	framed    bool // tokens come in SaslAuthenticate requests
	round     int
}

// authenticate is SaslServerAuthenticator.authenticate.
func (b *Broker) authenticate(frame []byte) Event {
	switch b.sasl.stage {
	case tokens:
		return b.token(frame)
	case badMechanism:
		return refuse("re-authentication by another mechanism")
	}
	return b.beforeTokens(frame)
}

// beforeTokens is SaslServerAuthenticator.handleKafkaRequest. There is no token before
// SaslHandshake: what does not parse, such as the GSSAPI token that clients before 0.10 begin with,
// closes the connection.
func (b *Broker) beforeTokens(frame []byte) Event {
	h, body, refused := parseHeader(frame)
	switch {
	case refused != "":
		return refuse(refused)
	case h.key == saslHandshake:
		return b.handshake(h, body, false)
	case h.key != apiVersions:
		return h.event().close("request before authentication")
	}
	e, served := b.apiVersions(h, body)
	if e.Closes {
		return e
	}
	if b.sasl.stage == handshake {
		return h.event().close("ApiVersions again")
	}
	if served {
		b.sasl.stage = handshake
	}
	return e
}

// reauthenticate is KafkaChannel.maybeBeginServerReauthentication: another authenticator takes
// over, with this handshake.
func (b *Broker) reauthenticate(h header, body *reader) Event {
	return b.handshake(h, body, true)
}

// handshake is SaslServerAuthenticator.handleHandshakeRequest. What a version that is not supported
// ends in is the constructor of requests.AbstractRequest.
func (b *Broker) handshake(h header, body *reader, again bool) Event {
	mechanism := string(body.str(int32(body.int16())))
	if body.failed || !h.supported() {
		return h.event().close("body does not parse")
	}
	if !slices.Contains(b.cfg.Mechanisms, mechanism) {
		if again { // the exception is thrown where nobody sends the answer
			return h.event().close("mechanism not offered")
		}
		return b.answer(h, unsupportedSASLMechanism).close("mechanism not offered")
	}
	if again && mechanism != b.sasl.mechanism {
		b.sasl.stage = badMechanism
	} else {
		b.sasl = saslState{stage: tokens, mechanism: mechanism, framed: h.version >= 1}
	}
	return b.answer(h, 0)
}

// token is SaslServerAuthenticator.handleSaslToken.
func (b *Broker) token(frame []byte) Event {
	if b.sasl.framed {
		return b.framedToken(frame)
	}
	e := Event{Kind: Token}
	step := b.step(frame)
	if step.Result >= Fail {
		return e.close("authentication failed")
	}
	if step.Answer != nil {
		e.Answered, e.Response = true, sized(step.Answer)
	}
	return e
}

// framedToken is the part of handleSaslToken for clients that sent SaslHandshake v1.
func (b *Broker) framedToken(frame []byte) Event {
	h, body, refused := parseHeader(frame)
	if refused != "" {
		return refuse(refused)
	}
	if h.key != saslAuthenticate {
		return b.notAToken(h, body)
	}
	token := body.authBytes(h.version)
	if body.failed || !h.supported() {
		return h.event().close("body does not parse")
	}
	step := b.step(token)
	switch step.Result {
	case Fail:
		return b.answer(h, saslAuthenticationFailed).close("authentication failed")
	case Crash:
		return h.event().close("authentication failed")
	}
	return b.answerToken(h, step.Answer)
}

// notAToken answers a request in place of SaslAuthenticate with an error, even one that only
// controllers serve. The answer to Produce counts the bytes of the records.
func (b *Broker) notAToken(h header, body *reader) Event {
	const why = "request during authentication"
	e := h.event().close(why)
	switch {
	case h.key == apiVersions:
		if answer, _ := b.apiVersions(h, body); answer.Closes {
			return answer
		}
	case !h.supported():
		return e
	case h.key == saslHandshake:
		body.str(int32(body.int16()))
	case h.key == produce:
		if p := body.produce(h.version); p.acks == 0 || p.null {
			return e
		}
	}
	if body.failed {
		return e
	}
	return b.answer(h, illegalSASLState).close(why)
}

// step evaluates a token.
func (b *Broker) step(token []byte) Step {
	step := b.cfg.Authenticate(b.sasl.mechanism, token, b.sasl.round)
	b.sasl.round++
	if step.Result == Done {
		b.sasl.stage = authenticated
	}
	return step
}
