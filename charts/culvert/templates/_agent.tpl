{{- define "culvert.agent.name" -}}
{{ include "culvert.fullname" . }}-agent
{{- end }}

{{/* What clients are told to connect to. */}}
{{- define "culvert.agent.host" -}}
{{ .Values.agent.advertisedHost | default (printf "%s.%s.svc" (include "culvert.agent.name" .) .Release.Namespace) }}
{{- end }}

{{/* The ids that agent.expectNodes names and that have a port, as a YAML list in order. */}}
{{- define "culvert.agent.nodes" -}}
{{- $ids := list }}
{{- if not .Values.agent.brokerNames }}
{{- $most := sub 65535 (int .Values.agent.brokerPortBase) | int }}
{{- range splitList "," (toString .Values.agent.expectNodes) }}
{{- $ends := splitList "-" . }}
{{- $first := first $ends | atoi }}
{{- $last := last $ends | atoi }}
{{- if gt $first $last }}
{{- fail (printf "agent.expectNodes %s: the range ends before it begins" .) }}
{{- end }}
{{- if gt $last $most }}
{{- fail (printf "agent.expectNodes %s: with agent.brokerPortBase %v node %d would have port %d, and ports end at 65535: lower agent.brokerPortBase" . $.Values.agent.brokerPortBase $last (add $.Values.agent.brokerPortBase $last)) }}
{{- end }}
{{- if gt (add (sub $last $first) (len $ids)) 1023 }}
{{- fail (printf "agent.expectNodes %s: more than 1024 nodes" .) }}
{{- end }}
{{- range untilStep $first (add $last 1 | int) 1 }}
{{- $ids = append $ids . }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml (uniq $ids) }}
{{- end }}

{{/* Refuses values that cannot work, in words. */}}
{{- define "culvert.agent.check" -}}
{{- $a := .Values.agent }}
{{- if not $a.gatewayUrls }}
{{- fail "agent.gatewayUrls is empty: give the gateway's, as [https://kafka.example.com]" }}
{{- end }}
{{- if and (eq (toString $a.expectNodes) "") (not $a.brokerNames) }}
{{- fail "agent.expectNodes is empty: name the ids of all brokers, as \"0-2\". Each gets a port of the Service, and any replica must know it from the start" }}
{{- end }}
{{- if and $a.brokerNames (not $a.listenTLS.existingSecret) }}
{{- fail "agent.brokerNames: without agent.listenTLS.existingSecret clients do not say which name they want" }}
{{- end }}
{{- range include "culvert.agent.nodes" . | fromYamlArray }}
{{- $port := add $a.brokerPortBase . }}
{{- if has $port (list (int64 $a.port) (int64 9464)) }}
{{- fail (printf "agent.brokerPortBase %v: node %v would have port %d, which is taken: choose another" $a.brokerPortBase . $port) }}
{{- end }}
{{- end }}
{{- $taken := dict (toString $a.port) "agent.port" "9464" "the admin port" }}
{{- range include "culvert.agent.nodes" . | fromYamlArray }}
{{- $taken = set $taken (toString (add $a.brokerPortBase .)) (printf "the port of node %v" .) }}
{{- end }}
{{- range $name, $port := $a.forwards }}
{{- if regexMatch "^(kafka|broker-[0-9]+)$" $name }}
{{- fail (printf "agent.forwards.%s: the Service has a port of that name already: choose another, here and at the gateway" $name) }}
{{- end }}
{{- with get $taken (toString $port) }}
{{- fail (printf "agent.forwards.%s: %v is %s: choose another" $name $port .) }}
{{- end }}
{{- $taken = set $taken (toString $port) (printf "the port of agent.forwards.%s" $name) }}
{{- end }}
{{- $credentials := or $a.token.existingSecret $a.token.value $a.gatewayTLS.client.existingSecret $a.snowflake.pat.existingSecret $a.snowflake.pat.value $a.snowflake.privateKey.existingSecret }}
{{- if and $a.anonymous $credentials }}
{{- fail "agent.anonymous: true says that there are no credentials, and there are: leave one out" }}
{{- end }}
{{- if and $a.token.existingSecret $a.token.value }}
{{- fail "agent.token: existingSecret and value are both set: leave one out" }}
{{- end }}
{{- if and (ne $a.service.type "ClusterIP") (not $a.advertisedHost) }}
{{- fail (printf "agent.service.type %s: set agent.advertisedHost, for clients outside of the cluster cannot resolve %s" $a.service.type (include "culvert.agent.host" .)) }}
{{- end }}
{{- if and (ne $a.service.type "ClusterIP") $a.networkPolicy.enabled (not $a.networkPolicy.from) }}
{{- fail (printf "agent.service.type %s: agent.networkPolicy lets in pods of this namespace alone: say with agent.networkPolicy.from who else may come, as [{ipBlock: {cidr: 10.0.0.0/8}}]" $a.service.type) }}
{{- end }}
{{- if and (include "culvert.given" $a.listenTLS.clientCA) (not $a.listenTLS.existingSecret) }}
{{- fail "agent.listenTLS.clientCA: without agent.listenTLS.existingSecret clients show no certificates" }}
{{- end }}
{{- with $a.snowflake }}
{{- if and .pat.existingSecret .pat.value }}
{{- fail "agent.snowflake.pat: existingSecret and value are both set: leave one out" }}
{{- end }}
{{- if and (or .pat.existingSecret .pat.value) .privateKey.existingSecret }}
{{- fail "agent.snowflake: pat and privateKey are both set: leave one out" }}
{{- end }}
{{- if and (or .account .user .role) (not .privateKey.existingSecret) }}
{{- fail "agent.snowflake: account, user and role are for a privateKey; a pat says by itself whose it is" }}
{{- end }}
{{- if and .privateKey.existingSecret (not (and .account .user)) }}
{{- fail "agent.snowflake.privateKey: set agent.snowflake.account and agent.snowflake.user, whose key it is" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "culvert.agent.files" -}}
{{- $a := .Values.agent }}
{{- $name := include "culvert.agent.name" . }}
{{- if or $a.token.existingSecret $a.token.value }}
{{- include "culvert.file" (dict "name" "token" "ref" $a.token "made" (printf "%s-token" $name) "items" (dict "token" (ternary $a.token.key "token" (ne $a.token.existingSecret "")))) }}
{{- end }}
{{- with $a.gatewayTLS }}
{{- if include "culvert.given" .ca }}
{{- include "culvert.file" (dict "name" "gateway-ca" "ref" .ca "items" (dict "ca.crt" .ca.key)) }}
{{- end }}
{{- if .client.existingSecret }}
{{- include "culvert.file" (dict "name" "gateway-cert" "ref" .client "items" (dict "tls.crt" .client.certKey "tls.key" .client.keyKey)) }}
{{- end }}
{{- end }}
{{- with $a.snowflake }}
{{- if or .pat.existingSecret .pat.value }}
{{- include "culvert.file" (dict "name" "snowflake" "ref" .pat "made" (printf "%s-snowflake" $name) "items" (dict "pat" (ternary .pat.key "pat" (ne .pat.existingSecret "")))) }}
{{- end }}
{{- if .privateKey.existingSecret }}
{{- $items := dict "rsa_key.p8" .privateKey.key }}
{{- if .privateKey.passphraseKey }}
{{- $items = set $items "passphrase" .privateKey.passphraseKey }}
{{- end }}
{{- include "culvert.file" (dict "name" "snowflake" "ref" .privateKey "items" $items) }}
{{- end }}
{{- end }}
{{- with $a.listenTLS }}
{{- if .existingSecret }}
{{- include "culvert.file" (dict "name" "listen-tls" "ref" . "items" (dict "tls.crt" .certKey "tls.key" .keyKey)) }}
{{- end }}
{{- if include "culvert.given" .clientCA }}
{{- include "culvert.file" (dict "name" "listen-client-ca" "ref" .clientCA "items" (dict "ca.crt" .clientCA.key)) }}
{{- end }}
{{- end }}
{{- include "culvert.brokerFiles" $a.brokerTLS }}
{{- end }}

{{/*
Two bootstrap addresses, whose brokers' ports are the same: the pod's own, for
everybody, and loopback, where kubectl port-forward comes out. Clients of the
latter are told 127.0.0.1, and find the ports that are forwarded there.
*/}}
{{- define "culvert.agent.flags" }}
{{- $a := .Values.agent }}
{{- range $a.gatewayUrls }}
- {{ printf "--gateway-url=%s" . | quote }}
{{- end }}
- --listen=[$(POD_IP)]:{{ $a.port }}={{ include "culvert.agent.host" . }}
- --listen=127.0.0.1:{{ $a.port }}
{{- if $a.brokerNames }}
- {{ printf "--broker-names=%s" $a.brokerNames | quote }}
{{- else }}
- --broker-port-base={{ $a.brokerPortBase }}
{{- end }}
{{- if ne (toString $a.expectNodes) "" }}
- --expect-nodes={{ $a.expectNodes }}
{{- end }}
- --state-file=none
- --admin-listen=:9464
{{- if ne $a.transport "auto" }}
- --transport={{ $a.transport }}
{{- end }}
{{- if or $a.token.existingSecret $a.token.value }}
- --token-file=/etc/culvert/token/token
{{- end }}
{{- with $a.gatewayTLS }}
{{- if include "culvert.given" .ca }}
- --gateway-ca-file=/etc/culvert/gateway-ca/ca.crt
{{- end }}
{{- if .client.existingSecret }}
- --gateway-cert-file=/etc/culvert/gateway-cert/tls.crt
- --gateway-key-file=/etc/culvert/gateway-cert/tls.key
{{- end }}
{{- end }}
{{- with $a.snowflake }}
{{- if or .pat.existingSecret .pat.value }}
- --snowflake-pat-file=/etc/culvert/snowflake/pat
{{- end }}
{{- if .privateKey.existingSecret }}
- --snowflake-private-key-file=/etc/culvert/snowflake/rsa_key.p8
{{- if .privateKey.passphraseKey }}
- --snowflake-private-key-passphrase-file=/etc/culvert/snowflake/passphrase
{{- end }}
{{- end }}
{{- with .account }}
- {{ printf "--snowflake-account=%s" . | quote }}
{{- end }}
{{- with .user }}
- {{ printf "--snowflake-user=%s" . | quote }}
{{- end }}
{{- with .role }}
- {{ printf "--snowflake-role=%s" . | quote }}
{{- end }}
{{- end }}
{{- with $a.listenTLS }}
{{- if .existingSecret }}
- --listen-tls-cert-file=/etc/culvert/listen-tls/tls.crt
- --listen-tls-key-file=/etc/culvert/listen-tls/tls.key
{{- end }}
{{- if include "culvert.given" .clientCA }}
- --listen-client-ca-file=/etc/culvert/listen-client-ca/ca.crt
{{- end }}
{{- end }}
{{- include "culvert.brokerArgs" $a.brokerTLS }}
{{- range $name, $port := $a.forwards }}
- {{ printf "--forward=%s=:%v" $name $port | quote }}
{{- end }}
- --drain-timeout={{ $a.drainTimeoutSeconds }}s
- --log-level={{ $a.logLevel }}
- --log-format=json
{{- range $a.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "culvert.agent.ports" -}}
- name: kafka
  containerPort: {{ .Values.agent.port }}
{{- range include "culvert.agent.nodes" . | fromYamlArray }}
- name: broker-{{ . }}
  containerPort: {{ add $.Values.agent.brokerPortBase . }}
{{- end }}
{{- range $port := .Values.agent.forwards }}
- containerPort: {{ $port }}
{{- end }}
{{- end }}
