{{- define "surefoot.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: KubeRay appends to the RayCluster's name, and cuts what is too long. */}}
{{- define "surefoot.fullname" -}}
{{- $name := include "surefoot.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of a part: (list . "control-plane"). */}}
{{- define "surefoot.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{ include "surefoot.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "surefoot.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "surefoot.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* An image: (list . .Values.redis.image). */}}
{{- define "surefoot.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $registry := default $root.Values.imageRegistry $image.registry -}}
{{- $path := ternary (printf "%s/%s" $registry $image.repository) $image.repository (ne $registry "") -}}
{{- if $image.digest -}}
{{ $path }}@{{ $image.digest }}
{{- else -}}
{{ $path }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "surefoot.serviceAccount" -}}
{{- if .Values.controlPlane.serviceAccount.create -}}
{{ default (include "surefoot.fullname" .) .Values.controlPlane.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.controlPlane.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "surefoot.raySecret" -}}
{{- default (include "surefoot.fullname" .) .Values.ray.auth.existingSecret -}}
{{- end -}}

{{- define "surefoot.bundledRedis" -}}
{{- if and .Values.ray.enabled (eq .Values.ray.faultTolerance.backend "redis") (not .Values.ray.faultTolerance.redis.address) -}}true{{- end -}}
{{- end -}}

{{/* The Secret that a Job makes: the users' token, the bundled Redis' password. */}}
{{- define "surefoot.madeSecret" -}}
{{ include "surefoot.fullname" . }}-secrets
{{- end -}}

{{- define "surefoot.madeKeys" -}}
{{- $keys := list -}}
{{- if not .Values.auth.existingSecret -}}{{- $keys = append $keys .Values.auth.key -}}{{- end -}}
{{- if and (include "surefoot.bundledRedis" .) (not .Values.ray.faultTolerance.redis.existingSecret) -}}
{{- $keys = append $keys .Values.ray.faultTolerance.redis.key -}}
{{- end -}}
{{- join " " $keys -}}
{{- end -}}

{{- define "surefoot.tokenSecret" -}}
{{- default (include "surefoot.madeSecret" .) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "surefoot.redisSecret" -}}
{{- default (include "surefoot.madeSecret" .) .Values.ray.faultTolerance.redis.existingSecret -}}
{{- end -}}

{{- define "surefoot.checkpointVolume" -}}
{{- if and (not .Values.checkpoints.url) .Values.checkpoints.volume.enabled -}}true{{- end -}}
{{- end -}}

{{- define "surefoot.checkpointClaim" -}}
{{- default (printf "%s-checkpoints" (include "surefoot.fullname" .)) .Values.checkpoints.volume.existingClaim -}}
{{- end -}}

{{/* The same user everywhere, so that what one part writes on a shared volume the others may read. */}}
{{- define "surefoot.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "surefoot.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where a pod goes: (list . .Values.redis), inside of a pod's spec. */}}
{{- define "surefoot.scheduling" -}}
{{- $root := index . 0 -}}{{- $where := index . 1 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $where.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $where.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $where.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $where.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $where.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment of whatever reads or writes checkpoints. */}}
{{- define "surefoot.storageEnvFrom" -}}
{{- with .Values.checkpoints.existingSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end -}}

{{/* A hook's annotations: (list . "pre-install,pre-upgrade" "-5"). Without hooks it is a plain object. */}}
{{- define "surefoot.hook" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.hooks.enabled }}
annotations:
  helm.sh/hook: {{ index . 1 }}
  helm.sh/hook-weight: {{ index . 2 | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
{{- end -}}

{{/* A plain Job cannot be changed: what it does is part of its name. (list . "secrets" (list "what" "it" "does")) */}}
{{- define "surefoot.jobName" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s-%s" (include "surefoot.fullname" $root) (index . 1) -}}
{{- if $root.Values.hooks.enabled -}}
{{ $name }}
{{- else -}}
{{ $name }}-{{ index . 2 | toJson | sha256sum | trunc 8 }}
{{- end -}}
{{- end -}}

{{- define "surefoot.makesSecrets" -}}
{{- if include "surefoot.madeKeys" . -}}true{{- end -}}
{{- end -}}

{{- define "surefoot.guards" -}}
{{- if and .Values.ray.enabled .Values.hooks.enabled -}}true{{- end -}}
{{- end -}}

{{/* A Ray pod's spec, head or worker: (list . $pod $command-name $serviceAccount $drainSeconds $graceSeconds). */}}
{{- define "surefoot.rayPod" -}}
{{- $root := index . 0 -}}{{- $pod := index . 1 -}}{{- $name := index . 2 -}}
{{- $fault := $root.Values.ray.faultTolerance -}}
serviceAccountName: {{ index . 3 }}
automountServiceAccountToken: false
enableServiceLinks: false
# above what draining takes: then the node's processes are ended
terminationGracePeriodSeconds: {{ index . 5 }}
securityContext:
  {{- include "surefoot.podSecurity" $root | nindent 2 }}
{{- include "surefoot.scheduling" (list $root $pod) | nindent 0 }}
containers:
  - name: {{ $name }}
    image: {{ include "surefoot.image" (list $root $root.Values.ray.image) }}
    imagePullPolicy: {{ $root.Values.ray.image.pullPolicy }}
    # KubeRay's own `bash -c "ulimit ...; ray start"` keeps SIGTERM from `ray start`, which is to drain the node. tini takes in what
    # dead trainers leave; eval, since the command has variables and quotes of its own
    command: [/bin/bash, -c, --]
    args: ['ulimit -n 65536; eval exec tini -- "$KUBERAY_GEN_RAY_START_CMD"']
    env:
      - name: HOME
        value: /tmp
      - name: RAY_USAGE_STATS_ENABLED
        value: "0"
      - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
        value: {{ index . 4 | quote }}
      {{- if ne $fault.backend "none" }}
      # how long nodes wait for a head that is away
      - name: RAY_gcs_rpc_server_reconnect_timeout_s
        value: "600"
      {{- end }}
      {{- with $pod.cacheSize }}
      - name: SUREFOOT_CACHE_DIR
        value: /var/cache/surefoot
      - name: SUREFOOT_CACHE_SIZE
        value: {{ . | quote }}
      {{- end }}
      {{- with $pod.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- if or $root.Values.checkpoints.existingSecret $pod.extraEnvFrom }}
    envFrom:
      {{- include "surefoot.storageEnvFrom" $root | nindent 6 }}
      {{- with $pod.extraEnvFrom }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
    ports:
      {{- if eq $name "ray-head" }}
      - name: gcs
        containerPort: 6379
      - name: dashboard
        containerPort: 8265
      {{- end }}
      - name: metrics
        containerPort: 8080
    # Ray's agent answers for the node, and on the head for the control store; it takes no token
    startupProbe:
      httpGet:
        path: /api/healthz
        port: 52365
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 60
    readinessProbe:
      httpGet:
        path: /api/healthz
        port: 52365
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    livenessProbe:
      httpGet:
        path: /api/healthz
        port: 52365
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 12
    resources:
      {{- toYaml $pod.resources | nindent 6 }}
    securityContext:
      {{- include "surefoot.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - name: shared-mem
        mountPath: /dev/shm
      - name: tmp
        mountPath: /tmp
      # under this name the operator shares it with the autoscaler
      - name: ray-logs
        mountPath: /tmp/ray
      {{- if $pod.cacheSize }}
      - name: cache
        mountPath: /var/cache/surefoot
      {{- end }}
      {{- if include "surefoot.checkpointVolume" $root }}
      - name: checkpoints
        mountPath: /var/lib/surefoot-checkpoints
      {{- end }}
      {{- with $pod.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: shared-mem
    emptyDir:
      medium: Memory
      sizeLimit: {{ $pod.shmSize }}
  - name: tmp
    emptyDir:
      sizeLimit: {{ $pod.tmpSize }}
  - name: ray-logs
    emptyDir:
      sizeLimit: {{ $pod.tmpSize }}
  {{- with $pod.cacheSize }}
  - name: cache
    {{- if $pod.cacheVolume }}
    {{- toYaml $pod.cacheVolume | nindent 4 }}
    {{- else }}
    emptyDir:
      sizeLimit: {{ . }}
    {{- end }}
  {{- end }}
  {{- if include "surefoot.checkpointVolume" $root }}
  - name: checkpoints
    persistentVolumeClaim:
      claimName: {{ include "surefoot.checkpointClaim" $root }}
  {{- end }}
  {{- with $pod.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A worker group with what it does not say: (list . $group), as JSON. */}}
{{- define "surefoot.worker" -}}
{{- $worker := deepCopy (index . 0).Values.ray.workerDefaults }}
{{- range $key, $value := index . 1 }}{{- $_ := set $worker $key $value }}{{- end }}
{{- toJson $worker -}}
{{- end -}}

{{/* The worker groups as the control plane is told of them. Ray sees the limits, as KubeRay tells it. */}}
{{- define "surefoot.nodeGroups" -}}
{{- $groups := dict }}
{{- range $name, $group := .Values.ray.workerGroups }}
{{- $worker := include "surefoot.worker" (list $ $group) | fromJson }}
{{- $limits := default dict $worker.resources.limits }}
{{- $requests := default dict $worker.resources.requests }}
{{- $told := dict "cpus" (toString (default (default 0 $requests.cpu) $limits.cpu)) "market" $worker.market "priority" (int $worker.priority) }}
{{- range $resource, $amount := $limits }}
{{- if hasSuffix "gpu" $resource }}{{- $_ := set $told "gpus" (toString $amount) }}{{- end }}
{{- end }}
{{- $_ := set $told "max_nodes" (int (ternary $worker.maxReplicas $worker.minReplicas $.Values.ray.autoscaling.enabled)) }}
{{- with get (default dict $worker.rayLabels) "ray.io/accelerator-type" }}{{- $_ := set $told "device" . }}{{- end }}
{{- if not (kindIs "invalid" $worker.price) }}{{- $_ := set $told "price_per_hour" $worker.price }}{{- end }}
{{- $_ := set $groups $name $told }}
{{- end }}
{{- toJson $groups -}}
{{- end -}}

{{/* Rules of NetworkPolicies. */}}
{{- define "surefoot.dnsEgress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
{{- end -}}

{{- define "surefoot.egress" -}}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "surefoot.rayPods" -}}
- podSelector:
    matchLabels:
      {{- include "surefoot.raySelector" (list . "head") | nindent 6 }}
- podSelector:
    matchLabels:
      {{- include "surefoot.raySelector" (list . "worker") | nindent 6 }}
{{- end -}}

{{/* Ray's pods, by KubeRay's labels: (list . "head"). Their app.kubernetes.io/name is KubeRay's, by which its Services find them. */}}
{{- define "surefoot.raySelector" -}}
ray.io/cluster: {{ include "surefoot.fullname" (index . 0) }}
ray.io/node-type: {{ index . 1 }}
{{- end -}}

{{- define "surefoot.rayPodLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: {{ include "surefoot.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
