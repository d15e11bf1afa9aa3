// Package standin stands in for the ingress of Snowpark Container Services and for the account
// behind it, in tests and in the demo, so that all of culvert can be tried without a Snowflake
// account. It is not a proxy for anything else, and nothing should be measured through it.
//
// An [Ingress] ends TLS, asks for a token of an [Account], and relays to an instance of a
// [Service]. An Account also answers /oauth/token.
//
// It does what Snowflake documents:
//
//   - HTTP and WebSocket to endpoints with host names of their own; CONNECT and
//     TRACE are banned.
//   - Tokens in Authorization: Snowflake Token="…": a programmatic access token,
//     or what /oauth/token gives for a JWT that is signed with a key of the
//     user's. Without one, 302 to the sign-in page.
//   - Request headers: tokens are taken out, Sf-Context-Current-User is put in.
//     Response headers: Server, X-Powered-By and their like are taken out, CORS is
//     overwritten, Content-Security-Policy and its like are put in. A response
//     with the type of an executable becomes 403.
//   - A connection on which nothing has moved for 90 seconds is closed.
//   - Any instance that is ready may get a request, and there is no stickiness. A
//     suspended service is started by a request.
//   - 403 for a cross-origin request with a cookie and without a token; 404 for
//     unknown hosts and for roles without the endpoint's service role.
//
// It does what others report of it: the X-SF-SPCS-Authorization header, the bare text of
// /oauth/token's answer, 302 for unknown schemes, JSON with responseType, requestId and detail in
// 401 and 403, Server: _ and a cookie sfc-ss-… on all answers, and, by option, streams that are cut
// after 30 seconds.
//
// The rest is assumed, because nothing says how it is: the status 405 of what is banned, 503 when
// no instance is ready, the words of details, the status and the codes of /oauth/token's refusals,
// how long its tokens live, that any byte counts as activity, HTTP/1.1 alone (HTTP/2 by option),
// that responses are not buffered (by option they are), that a client's own Sf-Context-Current-User
// is overwritten (by option it is passed on too), and that a connection outlives its token.
package standin
