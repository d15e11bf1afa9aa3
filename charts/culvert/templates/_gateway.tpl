{{- define "culvert.gateway.name" -}}
{{ include "culvert.fullname" . }}-gateway
{{- end }}

{{/* Refuses values that cannot work, in words. */}}
{{- define "culvert.gateway.check" -}}
{{- $g := .Values.gateway }}
{{- if not $g.brokers.bootstrap }}
{{- fail "gateway.brokers.bootstrap is empty: name some of the cluster's brokers, as [kafka-0.kafka:9092, kafka-1.kafka:9092]" }}
{{- end }}
{{- if and $g.tokens.existingSecret $g.tokens.values }}
{{- fail "gateway.tokens: existingSecret and values are both set: leave one out" }}
{{- end }}
{{- $auth := or $g.tokens.existingSecret $g.tokens.values (include "culvert.given" $g.clientCA) }}
{{- if not (or $auth $g.insecureNoAuth) }}
{{- fail "gateway: anybody could come in: set gateway.tokens or gateway.clientCA, or say gateway.insecureNoAuth" }}
{{- end }}
{{- if and $auth $g.insecureNoAuth }}
{{- fail "gateway.insecureNoAuth lets everybody in, and gateway.tokens or gateway.clientCA does not: leave one out" }}
{{- end }}
{{- if and $g.ticketKey.existingSecret $g.ticketKey.value }}
{{- fail "gateway.ticketKey: existingSecret and value are both set: leave one out" }}
{{- end }}
{{- if and (include "culvert.given" $g.clientCA) (not $g.tls.existingSecret) }}
{{- fail "gateway.clientCA: without gateway.tls agents show no certificates" }}
{{- end }}
{{- if and (ne $g.service.udp "none") (not $g.tls.existingSecret) }}
{{- fail (printf "gateway.service.udp %s: without gateway.tls there is no HTTP/3" $g.service.udp) }}
{{- end }}
{{- if and $g.ingress.enabled (not $g.ingress.host) }}
{{- fail "gateway.ingress.host is empty: it is the host of the agents' gatewayUrls" }}
{{- end }}
{{- with $g.httpRoute }}
{{- if and .enabled (not .parentRefs) }}
{{- fail "gateway.httpRoute.parentRefs is empty: name the Gateway that the route belongs to, as [{name: public, namespace: gateways}]" }}
{{- end }}
{{- if and .enabled (not .hostnames) }}
{{- fail "gateway.httpRoute.hostnames is empty: the first one is the host of the agents' gatewayUrls" }}
{{- end }}
{{- end }}
{{- include "culvert.gateway.checkPorts" . }}
{{- end }}

{{/*
Where Helm works out by itself what to change in an object, as Helm 3 does and
Helm 4 for releases of Helm 3's, it tells a Service's ports apart by their number
alone: UDP would come in the place of TCP, and where UDP goes TCP would lose its
target. So these ports are not changed that way. A Service that the server works
on says "Apply".
*/}}
{{- define "culvert.gateway.checkPorts" -}}
{{- $name := include "culvert.gateway.name" . }}
{{- $port := include "culvert.gateway.port" . | int }}
{{- with lookup "v1" "Service" .Release.Namespace $name }}
{{- $protocols := list }}
{{- range .spec.ports }}
{{- if eq (int .port) $port }}
{{- $protocols = append $protocols .protocol }}
{{- end }}
{{- end }}
{{- $ofServer := false }}
{{- range .metadata.managedFields }}
{{- $ofServer = or $ofServer (and (hasPrefix "helm" .manager) (eq .operation "Apply")) }}
{{- end }}
{{- $same := eq $.Values.gateway.service.udp "same" }}
{{- $remedy := "" }}
{{- if and $same (eq (join "" $protocols) "TCP") }}
{{- $remedy = printf `Put UDP there yourself, and then come again:

  kubectl -n %s patch service %s --type=json -p '[{"op":"add","path":"/spec/ports/-","value":{"name":"http3","protocol":"UDP","port":%d,"targetPort":"http3"}}]'
` $.Release.Namespace $name $port }}
{{- else if and (not $same) (has "UDP" $protocols) (has "TCP" $protocols) }}
{{- $remedy = printf `Leave it at "same", or let Helm make the Service anew, which may cost a load balancer its address:

  kubectl -n %s delete service %s
` $.Release.Namespace $name }}
{{- end }}
{{- if and $remedy (not $ofServer) }}
{{- fail (printf "gateway.service.udp %s: Helm would mix up TCP and UDP on port %d of service %s. %s" $.Values.gateway.service.udp $port $name $remedy) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "culvert.gateway.files" -}}
{{- $g := .Values.gateway }}
{{- $name := include "culvert.gateway.name" . }}
{{- if or $g.tokens.existingSecret $g.tokens.values }}
{{- include "culvert.file" (dict "name" "tokens" "ref" $g.tokens "made" (printf "%s-tokens" $name) "items" (dict "tokens" (ternary $g.tokens.key "tokens" (ne $g.tokens.existingSecret "")))) }}
{{- end }}
{{- include "culvert.file" (dict "name" "ticket-key" "ref" $g.ticketKey "made" (printf "%s-ticket-key" $name) "items" (dict "ticket.key" (ternary $g.ticketKey.key "ticket.key" (ne $g.ticketKey.existingSecret "")))) }}
{{- if include "culvert.given" $g.clientCA }}
{{- include "culvert.file" (dict "name" "client-ca" "ref" $g.clientCA "items" (dict "ca.crt" $g.clientCA.key)) }}
{{- end }}
{{- if $g.tls.existingSecret }}
{{- include "culvert.file" (dict "name" "tls" "ref" $g.tls "items" (dict "tls.crt" $g.tls.certKey "tls.key" $g.tls.keyKey)) }}
{{- end }}
{{- include "culvert.brokerFiles" $g.brokers.tls }}
{{- end }}

{{- define "culvert.gateway.args" -}}
{{- $g := .Values.gateway }}
- gateway
- --listen=:8443
- --admin-listen=:9465
- --bootstrap={{ join "," $g.brokers.bootstrap }}
{{- range $g.brokers.allow }}
- {{ printf "--allow-broker=%s" . | quote }}
{{- end }}
{{- include "culvert.brokerArgs" $g.brokers.tls }}
{{- if or $g.tokens.existingSecret $g.tokens.values }}
- --token-file=/etc/culvert/tokens/tokens
{{- end }}
{{- if include "culvert.given" $g.clientCA }}
- --client-ca-file=/etc/culvert/client-ca/ca.crt
{{- end }}
{{- range $g.allowUsers }}
- {{ printf "--allow-user=%s" . | quote }}
{{- end }}
{{- if $g.insecureNoAuth }}
- --insecure-no-auth
{{- end }}
- --ticket-key-file=/etc/culvert/ticket-key/ticket.key
{{- if $g.tls.existingSecret }}
- --tls-cert-file=/etc/culvert/tls/tls.crt
- --tls-key-file=/etc/culvert/tls/tls.key
{{- end }}
{{- range $name, $target := $g.forwards }}
- {{ printf "--forward=%s=%s" $name $target | quote }}
{{- end }}
{{- with $g.proxyProtocol }}
- --proxy-protocol={{ join "," . }}
{{- end }}
{{- with $g.auditLog }}
- {{ printf "--audit-log=%s" . | quote }}
{{- end }}
- --drain-timeout={{ $g.drainTimeoutSeconds }}s
- --log-level={{ $g.logLevel }}
- --log-format=json
{{- range $g.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "culvert.gateway.ports" -}}
- name: {{ include "culvert.gateway.portName" . }}
  containerPort: 8443
{{- if .Values.gateway.tls.existingSecret }}
- name: http3
  containerPort: 8443
  protocol: UDP
{{- end }}
{{- end }}

{{- define "culvert.gateway.portName" -}}
{{ ternary "https" "http" (ne .Values.gateway.tls.existingSecret "") }}
{{- end }}

{{- define "culvert.gateway.port" -}}
{{ .Values.gateway.service.port | default (ternary 443 80 (ne .Values.gateway.tls.existingSecret "")) }}
{{- end }}

{{/* A key that is made once and found again by later releases of this chart. */}}
{{- define "culvert.gateway.ticketKey" -}}
{{- $name := printf "%s-ticket-key" (include "culvert.gateway.name" .) }}
{{- $found := dig "data" "ticket.key" "" (lookup "v1" "Secret" .Release.Namespace $name) }}
{{- if .Values.gateway.ticketKey.value }}
{{- .Values.gateway.ticketKey.value | b64enc }}
{{- else if $found }}
{{- $found }}
{{- else }}
{{- randAlphaNum 64 | b64enc }}
{{- end }}
{{- end }}
