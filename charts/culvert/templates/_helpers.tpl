{{/* The beginning of all names. Room is left for what is added to it. */}}
{{- define "culvert.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What pods are selected by: (dict "root" $ "component" "agent"). */}}
{{- define "culvert.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "culvert.labels" -}}
{{ include "culvert.selectorLabels" . }}
{{ include "culvert.commonLabels" .root }}
{{- end }}

{{- define "culvert.commonLabels" -}}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "culvert.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "culvert.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "culvert.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/*
A file, or a pair of files, that a flag names, as an item of a list: mounted at
/etc/culvert/NAME, from what the values refer to or the Secret that the chart
makes. The names of the files there are ours, whatever the keys are called:
(dict "name" "token" "ref" .Values.agent.token "made" "its-secret" "items" (dict "token" "key")).
*/}}
{{- define "culvert.file" }}
- name: {{ .name }}
  {{- if .ref.existingConfigMap }}
  configMap: {{ .ref.existingConfigMap }}
  {{- else }}
  secret: {{ .ref.existingSecret | default .made }}
  {{- end }}
  items:
    {{- range $path, $key := .items }}
    - {key: {{ $key | quote }}, path: {{ $path | quote }}}
    {{- end }}
{{- end }}

{{/* Whether a CA is given: "true", or nothing. */}}
{{- define "culvert.given" -}}
{{- if or .existingSecret .existingConfigMap }}true{{ end }}
{{- end }}

{{/* Certificates for dialling brokers: the same at a gateway and at an agent without one. */}}
{{- define "culvert.brokerFiles" }}
{{- if include "culvert.given" .ca }}
{{- include "culvert.file" (dict "name" "broker-ca" "ref" .ca "items" (dict "ca.crt" .ca.key)) }}
{{- end }}
{{- if .client.existingSecret }}
{{- include "culvert.file" (dict "name" "broker-cert" "ref" .client "items" (dict "tls.crt" .client.certKey "tls.key" .client.keyKey)) }}
{{- end }}
{{- end }}

{{- define "culvert.brokerArgs" }}
{{- if .enabled }}
- --broker-tls
{{- end }}
{{- if include "culvert.given" .ca }}
- --broker-ca-file=/etc/culvert/broker-ca/ca.crt
{{- end }}
{{- if .client.existingSecret }}
- --broker-cert-file=/etc/culvert/broker-cert/tls.crt
- --broker-key-file=/etc/culvert/broker-cert/tls.key
{{- end }}
{{- with .serverName }}
- --broker-server-name={{ . }}
{{- end }}
{{- end }}

{{/* The bytes of a quantity, as 512Mi; "" for a form that this does not know. */}}
{{- define "culvert.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 }}
{{- $text := toString . }}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)?([kMG]|[KMG]i)?$" $text }}
{{- $number := regexFind "^[0-9.]+" $text }}
{{- mulf (float64 $number) (get $units (trimPrefix $number $text)) | floor | int64 }}
{{- end }}
{{- end }}

{{/* GOMEMLIMIT leaves a fifth of the limit to what Go does not count: the kernel's buffers of sockets are part of a pod's memory. */}}
{{- define "culvert.goMemLimit" -}}
{{- with .limits }}{{ with .memory }}{{ with include "culvert.bytes" . }}
{{- div (mul (int64 .) 4) 5 }}
{{- end }}{{ end }}{{ end }}
{{- end }}

{{/*
The pods of a component. One without an admin port does its work and ends:
(dict "root" $ "component" "agent" "values" .Values.agent "args" "yaml" "files" "yaml" "ports" "yaml" "adminPort" 9464).
*/}}
{{- define "culvert.pod" -}}
{{- $root := .root }}
{{- $v := .values }}
{{- $files := .files | fromYamlArray -}}
metadata:
  labels:
    {{- include "culvert.selectorLabels" . | nindent 4 }}
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $v.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $v.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "culvert.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # Without it Kubernetes would put CULVERT_... variables there that are none of ours.
  enableServiceLinks: false
  # Longer than --drain-timeout. No preStop hook is needed: docs/kubernetes.md, Upgrades.
  terminationGracePeriodSeconds: {{ add $v.drainTimeoutSeconds 10 }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with $v.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.extraInitContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "culvert.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        {{- .args | fromYamlArray | toYaml | nindent 8 }}
      {{- with include "culvert.env" . | fromYamlArray }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .adminPort }}
      ports:
        {{- .ports | fromYamlArray | toYaml | nindent 8 }}
        - name: admin
          containerPort: {{ .adminPort }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        periodSeconds: 5
        timeoutSeconds: 3
      livenessProbe:
        httpGet:
          path: /healthz
          port: admin
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- end }}
      {{- with $v.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      {{- if or $files $v.extraVolumeMounts }}
      volumeMounts:
        {{- range $files }}
        - name: {{ .name }}
          mountPath: /etc/culvert/{{ .name }}
          readOnly: true
        {{- end }}
        {{- with $v.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
    {{- with $v.extraContainers }}
    {{- if $.adminPort }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  {{- if or $files $v.extraVolumes }}
  volumes:
    {{- range $files }}
    - name: {{ .name }}
      {{- if .configMap }}
      configMap:
        name: {{ .configMap }}
        items:
          {{- toYaml .items | nindent 10 }}
      {{- else }}
      secret:
        secretName: {{ .secret }}
        defaultMode: 0440
        items:
          {{- toYaml .items | nindent 10 }}
      {{- end }}
    {{- end }}
    {{- with $v.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- if .adminPort }}
  topologySpreadConstraints:
    {{- include "culvert.spread" . | nindent 4 }}
  {{- else }}
  restartPolicy: Never
  {{- end }}
  {{- with $v.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "culvert.env" }}
{{- if ne .component "gateway" }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- with include "culvert.goMemLimit" .values.resources }}
- name: GOMEMLIMIT
  value: {{ . | quote }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* pod-template-hash spreads the pods of a new version without regard to the old one's, which are about to go. */}}
{{- define "culvert.spread" -}}
{{- $selector := dict "matchLabels" (include "culvert.selectorLabels" . | fromYaml) }}
{{- $usual := list
  (dict "topologyKey" "kubernetes.io/hostname" "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" "matchLabelKeys" (list "pod-template-hash"))
  (dict "topologyKey" "topology.kubernetes.io/zone" "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" "matchLabelKeys" (list "pod-template-hash")) }}
{{- $all := list }}
{{- range .values.topologySpreadConstraints | default $usual }}
{{- $all = append $all (merge (dict) . (dict "labelSelector" $selector)) }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{/* Rules of a network policy for what a component may reach. */}}
{{- define "culvert.egress" -}}
{{- with .egress -}}
egress:
  - ports:
      - port: 53
        protocol: UDP
      - port: 53
        protocol: TCP
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A namespaced object's beginning: (dict "root" $ "component" "agent" "name" "x"). */}}
{{- define "culvert.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "culvert.labels" . | nindent 2 }}
{{- end }}
