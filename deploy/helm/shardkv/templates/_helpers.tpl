{{- define "shardkv.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "shardkv.nodes" -}}{{ include "shardkv.name" . }}-nodes{{- end }}

{{- define "shardkv.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "shardkv.labels" -}}
{{ include "shardkv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: node
{{- end }}

{{- define "shardkv.account" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "shardkv.name" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- /* The nodes that the cluster is founded with, the first one first: the same for every pod. */}}
{{- define "shardkv.seeds" -}}
{{- $seeds := list }}
{{- range $ordinal := until (int .Values.foundingNodes) }}
{{- $seeds = append $seeds (printf "%s-%d.%s.%s.svc:%d" (include "shardkv.name" $) $ordinal (include "shardkv.nodes" $) $.Release.Namespace (int $.Values.ports.client)) }}
{{- end }}
{{- join "," $seeds }}
{{- end }}

{{- define "shardkv.check" -}}
{{- if and (not .Values.tls.enabled) (not .Values.insecureListen) }}
{{- fail "without tls.enabled everybody who reaches the pods may read and write: set insecureListen=true to say that this is meant" }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) }}
{{- fail "tls.secretName must name a secret with tls.crt, tls.key and ca.crt" }}
{{- end }}
{{- if gt (int .Values.foundingNodes) (int .Values.replicaCount) }}
{{- fail (printf "foundingNodes (%d) must not be above replicaCount (%d): the cluster waits for all of them" (int .Values.foundingNodes) (int .Values.replicaCount)) }}
{{- end }}
{{- end }}
